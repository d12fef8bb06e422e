"""A real `tanren serve` on a folder of its own, for the scripts that measure or disturb it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import psutil

from bench.children import environment
from bench.report import REPOSITORY

_LISTENING = re.compile(r"listening on (http://[^\s/]+)")
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A living server. `client` speaks to its API (paths begin behind `/v1`)."""

    process: subprocess.Popen[bytes]
    address: str
    client: httpx.Client
    log: Path


@contextlib.contextmanager
def serving(home: Path, settings: Sequence[str] = (), *, threads: int = 2) -> Iterator[Server]:
    """The server on a free port; leaving kills whatever works in that folder still."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    words = ["-P", "-m", "tanren", "serve", "configs/serve.yaml", "port=0", *settings]
    with open(log, "ab") as output:
        begins_at = output.tell()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(threads), "TANREN_HOME": str(home)},
        )
    try:
        address = _address(process, log, begins_at)
        with httpx.Client(base_url=f"{address}/v1", timeout=60) as client:
            yield Server(process, address, client, log)
    finally:
        _end(process, home)


def _address(process: subprocess.Popen[bytes], log: Path, begins_at: int) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        said = log.read_bytes()[begins_at:].decode("utf-8", errors="replace")
        if found := _LISTENING.search(said):
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{said[-2000:]}")
        time.sleep(0.05)
    raise TimeoutError(f"the server does not listen:\n{said[-2000:]}")


def _end(process: subprocess.Popen[bytes], home: Path) -> None:
    """SIGTERM, then SIGKILL; then jobs that it left working."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for other in psutil.process_iter(["pid", "environ"]):
        if other.pid == os.getpid():
            continue
        if (other.info["environ"] or {}).get("TANREN_HOME") == str(home):
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()

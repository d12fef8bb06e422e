"""`tanren serve` as a process of its own, on a free port, with the tiny chat model."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "data" / "tiny-chat"
ALIASES = ("gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-4o-mini-2024-07-18", "gpt-4o-mini")
ENDED = ("succeeded", "failed", "cancelled")
START_SECONDS = 30.0


@dataclass
class Server:
    url: str
    process: subprocess.Popen[bytes]
    home: Path
    said: list[str]

    def get(self, path: str) -> Any:
        return httpx2.get(self.url + path).json()

    def stop(self, number: int = signal.SIGTERM, *, within: float = 60) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within)

    def log(self) -> str:
        return (self.home / "server.log").read_text(encoding="utf-8")


def write_settings(home: Path, **settings: Any) -> Path:
    base = {"id": "tiny-chat", "name": str(TINY), "aliases": list(ALIASES)}
    document = {"port": 0, "folder": str(home / "service"), "models": [base], **settings}
    path = home / "serve.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return path


@contextmanager
def serving(home: Path, *words: str, **settings: Any) -> Iterator[Server]:
    """Started anew on the same `home` it is the same service again."""
    home.mkdir(parents=True, exist_ok=True)
    path = write_settings(home, **settings)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "train"),
        "TANREN_HOME": str(home),
        "TANREN_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    with open(home / "server.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tanren", "serve", str(path), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
    assert process.stdout is not None
    said: list[str] = []
    try:
        url = _listening(process.stdout, said)
        yield Server(url, process, home, said)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


def _listening(output: IO[bytes], said: list[str]) -> str:
    """The address that it tells; everything that it says lands in `said`."""
    told: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in output:
            said.append(line.decode("utf-8").rstrip())
            if said[-1].startswith("listening on "):
                told.put(said[-1].removeprefix("listening on "))
        told.put(None)

    threading.Thread(target=read, daemon=True).start()
    url = told.get(timeout=START_SECONDS)
    assert url is not None, f"it ended: {said}"
    return url


def wait_for(job: Any, *, until: Sequence[str] = ENDED, seconds: float = 120) -> list[str]:
    """The states that `job()` went through until one of these."""
    seen: list[str] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = job().status
        if not seen or seen[-1] != status:
            seen.append(status)
        if status in until:
            return seen
        time.sleep(0.1)
    raise AssertionError(f"still not {until}: {seen}")

"""A distillation as a process of its own, killed at chosen moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from cli.commands import start
from endpoint.chat_server import ChatServer


def distilling(config: Path, home: Path) -> subprocess.Popen[bytes]:
    return start("data", "distill", str(config), TANREN_HOME=str(home))


def killed_after(
    config: Path, home: Path, server: ChatServer, requests: int, number: int = signal.SIGKILL
) -> int:
    """Starts it and ends it when so many requests came since; returns its exit code."""
    before = len(server.bodies)
    process = distilling(config, home)
    deadline = time.monotonic() + 60
    while len(server.bodies) - before < requests and process.poll() is None:
        assert time.monotonic() < deadline, "it asks nothing"
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    return process.returncode


def finished(config: Path, home: Path) -> None:
    process = distilling(config, home)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode("utf-8")


def outputs(folder: Path) -> dict[str, Any]:
    """What two runs of one teacher must share: bytes, and provenance but for the clock."""
    found: dict[str, Any] = {
        name: (folder / name).read_bytes() for name in ("train.jsonl", "rejected.jsonl")
    }
    provenance = (folder / "provenance.jsonl").read_text(encoding="utf-8").splitlines()
    found["provenance"] = [json.loads(line) | {"seconds": None} for line in provenance]
    return found

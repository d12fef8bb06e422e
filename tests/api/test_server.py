"""The server as a process: how it begins, what it tells, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from api.serving import ROOT, serving, write_settings

from tanren.api.server import address_of, listen
from tanren.errors import UserError


def test_it_tells_where_it_listens_and_ends_when_asked(tmp_path: Path) -> None:
    began = time.monotonic()
    with serving(tmp_path) as server:
        started = time.monotonic() - began
        assert httpx2.get(f"{server.url}/healthz").json() == {"status": "ok"}
        assert httpx2.get(f"{server.url}/readyz").json() == {"status": "ok"}
        assert f"  export OPENAI_BASE_URL={server.url}/v1" in server.said
        assert "  export OPENAI_API_KEY=any" in server.said
        _check_a_second_one(tmp_path)
        assert server.stop() == 0
        assert "Traceback" not in server.log()
    assert started < 10, "imports alone take 0.7 s; this machine may be busy"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.url}/healthz")


def _check_a_second_one(home: Path) -> None:
    """On the same folder it must not begin."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tanren", "serve", str(home / "serve.yaml")],
        env={"PYTHONPATH": str(ROOT / "train"), "PATH": "", "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"listening" not in done.stdout and b"jobs are dispatched already" in done.stderr


def test_ctrl_c_ends_it_and_a_stream_becomes_complete(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        lines: list[str] = []

        def read() -> None:
            body = {"model": "tiny-chat", "stream": True, "max_tokens": 60, "temperature": 0,
                    "messages": [{"role": "user", "content": "日本の首都は?"}]}  # fmt: skip
            url = f"{server.url}/v1/chat/completions"
            with httpx2.stream("POST", url, json=body, timeout=60) as answer:
                lines.extend(line for line in answer.iter_lines() if line)

        reader = threading.Thread(target=read)
        reader.start()
        _until(lambda: any(line.startswith("data:") for line in lines))
        assert server.stop(signal.SIGINT) == 0
        reader.join()
    assert lines[-1] == "data: [DONE]"


def _until(condition: object, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_taken_port_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            listen("127.0.0.1", port)
    assert f"127.0.0.1:{port}" in str(caught.value) and "port" in caught.value.faults[0].remedy


def test_other_addresses_than_loopback_demand_keys(tmp_path: Path) -> None:
    with serving(tmp_path, host="0.0.0.0") as server:
        url = f"http://127.0.0.1:{server.url.rsplit(':', 1)[1]}"
        refused = httpx2.get(f"{url}/v1/models")
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{url}/healthz").status_code == 200
        assert any("tanren keys create" in line for line in server.said)
        made = subprocess.run(
            [sys.executable, "-P", "-m", "tanren", "keys", "create", "laptop",
             "--config", str(tmp_path / "serve.yaml"), "--json"],
            env={"PYTHONPATH": str(ROOT / "train"), "PATH": "", "PYTHONUTF8": "1"},
            capture_output=True, check=True,
        )  # fmt: skip
        secret = json.loads(made.stdout)["key"]
        headers = {"authorization": f"Bearer {secret}"}
        assert httpx2.get(f"{url}/v1/models", headers=headers).status_code == 200
        assert secret not in server.log()


def test_wrong_settings_are_told_all_at_once(tmp_path: Path) -> None:
    path = write_settings(tmp_path, prot=1, serving={"max_batches": 2})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tanren", "serve", str(path)],
        env={"PYTHONPATH": str(ROOT / "train"), "PATH": "", "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    said = done.stderr.decode("utf-8")
    assert "prot" in said and "max_batches" in said and "Traceback" not in said


def test_addresses_are_written_as_clients_reach_them() -> None:
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert address_of(bound, "127.0.0.1") == f"http://127.0.0.1:{port}"
        assert address_of(bound, "::1") == f"http://[::1]:{port}"
        assert address_of(bound, "0.0.0.0") == f"http://{socket.gethostname()}:{port}"

"""Official clients of OpenAI, old and new, each in a folder of its own beside this interpreter's
packages, so that a test can let them talk to a server.

They are installed once, into `$TANREN_TEST_CLIENTS` or `clients/` of this environment, from the
package index that pip and npm know of. Where that fails the tests are skipped and say why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

# As they were when people wrote scripts with them; 1.12 needs an httpx that still takes proxies.
PYTHON: Mapping[str, Sequence[str]] = {
    "2.0.0": ("openai==2.0.0",),
    "1.109.1": ("openai==1.109.1",),
    "1.12.0": ("openai==1.12.0", "httpx<0.28"),
    "0.28.1": ("openai==0.28.1",),
}
NODE = "6.49.0"
_INSTALL_SECONDS = 240


@dataclass(frozen=True)
class Client:
    """`run` a script with it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path

    def run(self, script: Path, *words: str, url: str, timeout: float = 120) -> str:
        """What the script printed. It must end well."""
        environment = {
            **os.environ,
            **self.environment,
            "OPENAI_BASE_URL": f"{url}/v1",
            "OPENAI_API_BASE": f"{url}/v1",
            "OPENAI_API_KEY": "any",
            "PYTHONUTF8": "1",
        }
        done = subprocess.run(
            [*self.command, str(script), *words],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = (part.decode("utf-8") for part in (done.stdout, done.stderr))
        assert done.returncode == 0, f"{out}\n{err}"
        return out


def python_client(version: str) -> Client:
    """A client of that version, or this test is skipped."""
    folder = _folder() / f"openai-{version}"
    words = [sys.executable, "-m", "pip", "install", "-q", "--target", "{}", *PYTHON[version]]
    _install(folder, words)
    return Client([sys.executable, "-W", "ignore"], {"PYTHONPATH": str(folder)}, folder)


def node_client() -> Client:
    """Node's client, or this test is skipped."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm here")
    folder = _folder() / f"node-{NODE}"
    words = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", "{}"]
    _install(folder, [*words, f"openai@{NODE}"])
    return Client(["node"], {"NODE_PATH": str(folder / "node_modules")}, folder)


def _folder() -> Path:
    named = os.environ.get("TANREN_TEST_CLIENTS")
    return Path(named) if named else Path(sys.prefix) / "clients"


def _install(folder: Path, words: Sequence[str]) -> None:
    if folder.is_dir():
        return
    aside = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    aside.mkdir(parents=True)
    closed = {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"}  # the tests' closed door
    environment = {name: value for name, value in os.environ.items() if name not in closed}
    try:
        done = subprocess.run(
            [word.format(aside) for word in words],
            env=environment,
            capture_output=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            aside.rename(folder)
            return
        why = (done.stderr or done.stdout).decode("utf-8", errors="replace").strip()[-300:]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    pytest.skip(f"this client could not be installed: {why}")

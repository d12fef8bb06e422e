"""A measurement's report: what it ran on, a Markdown table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "liger-kernel",
    "numpy",
)
SILENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "0"}
"""Environment of every measured process: no network, no chatter, no threads beyond those asked."""


def circumstances() -> dict[str, Any]:
    """Hardware, versions and commit: without them a number says nothing."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": _cpu_name(),
        "cpu_bf16": sorted({"amx_bf16", "avx512_bf16", "bf16"} & _cpu_flags()),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Short hash of the checkout, with `+` where files differ from it; "unknown" outside of git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True)
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True)
    except FileNotFoundError:
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.decode().strip() + ("+" if dirty.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_information() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []  # not Linux


def _cpu_name() -> str:
    for line in _cpu_information():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or "CPU"


def _cpu_flags() -> set[str]:
    for line in _cpu_information():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; floats with four significant digits, None as a dash."""
    lines = [list(header), ["---"] * len(header), *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "/").replace("\n", " ")


def footer(facts: dict[str, Any]) -> str:
    """One line that says where the numbers come from."""
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items() if found)
    device = facts.get("gpu") or f"{facts['cpu']}, {facts['cores']} cores"
    return (
        f"{device}; Python {facts['python']}, {versions}; commit {facts['commit']}; {facts['time']}"
    )


def write(folder: Path, name: str, result: dict[str, Any], markdown: str) -> None:
    """`NAME.json` and `NAME.md` in `folder`, and the text on standard output."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=1, default=str)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown + "\n", encoding="utf-8")
    print(markdown, flush=True)


def output_folder(wanted: Path) -> Path:
    """`$OUT` where it is set, else what was asked for."""
    return Path(os.environ["OUT"]) if os.environ.get("OUT") else wanted

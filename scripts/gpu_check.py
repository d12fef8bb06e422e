"""Checks on a GPU what CPUs cannot show: true NF4, attention kernels, memory, speed.

    python scripts/gpu_check.py                          everything, about nine minutes on an H200
    python scripts/gpu_check.py --sections attention nf4 --budget-seconds 120
    python scripts/gpu_check.py --tiny                   checks the script itself, on a CPU too

Models are made from the shapes of public ones with random weights; nothing is downloaded. Every
section runs in a process of its own within its own time, so that one that fails or hangs is
recorded and the others run; the next process imports its libraries meanwhile. Writes
`gpu_check.json` and `gpu_check.md` to `$OUT`, or to `--out`. Exit code 1 when anything failed, 2
without CUDA.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import report

SECONDS = {
    "environment": 45,
    "attention": 45,
    "nf4": 45,
    "packed": 45,
    "merge": 60,
    "export": 90,
    "answering": 60,
    "serving": 90,
    "preferences": 90,
    "methods": 120,
    "throughput": 170,
    "memory": 110,
    "out_of_memory": 60,
    "planning": 90,
    "ladder": 210,
}
"""Most seconds of each section, in the order in which they run."""
START_SECONDS = 180.0
"""Most seconds of a process until it has imported everything."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    began = time.monotonic()
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    result["sections"] = {}
    with workspace(options) as work:
        crew = Crew(options, work)
        try:
            if not crew.current().cuda and not options.tiny:
                print("no CUDA device here, so nothing was measured; --tiny runs the logic")
                return 2
            for name in options.sections:
                left = options.budget_seconds - (time.monotonic() - began)
                found = crew.run(name, min(SECONDS[name], left))
                result["sections"][name] = found
                result["seconds"] = round(time.monotonic() - began, 1)
                print(f"... {name}: {found['state']}, {found['seconds']:.0f} s", file=sys.stderr)
                save(options, result)
        finally:
            crew.close()
    print(markdown(result))
    return 1 if any(failed(found) for found in result["sections"].values()) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sections", choices=list(SECONDS), nargs="+", default=list(SECONDS))
    add("--budget-seconds", type=float, default=540, help="for everything")
    add("--big", choices=("llama-8b", "qwen3-8b"), default="llama-8b", help="the 8 B model")
    add("--work", type=Path, help="folder that keeps the models made; default: a temporary one")
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny models and numbers")
    add("--cpu", action="store_true", help="do not use a GPU that is there")
    return parser.parse_args(arguments)


@contextmanager
def workspace(options: argparse.Namespace) -> Iterator[Path]:
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        yield options.work
        return
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- processes ------------------------------------------------------------------------------------


class Worker:
    """One process that runs sections."""

    def __init__(self, settings: dict[str, Any], errors: Path) -> None:
        self._errors = errors
        self._cuda: bool | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        with errors.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gpu_checks.run", json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(settings),
                encoding="utf-8",
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def cuda(self) -> bool:
        """Waits until everything is imported."""
        if self._cuda is None:
            answer = self._hear(START_SECONDS)
            if "failed" in answer:
                raise RuntimeError(f"no section can run:\n{answer['failed']}")
            self._cuda = bool(answer["cuda"])
        return self._cuda

    def run(self, section: str, seconds: float) -> dict[str, Any]:
        """Rows of a section, and how it ended: done, skipped, failed or out of time."""
        assert self.cuda is not None and self._process.stdin is not None
        began = time.monotonic()
        self._process.stdin.write(json.dumps({"section": section, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        rows: list[dict[str, Any]] = []
        answer: dict[str, Any] = {}
        while not answer:
            heard = self._hear(seconds - (time.monotonic() - began))
            if "row" in heard:
                rows.append(heard["row"])
            else:
                answer = heard
        state = "done" if "done" in answer else next(iter(answer))
        note = None if state == "done" else answer[state]
        return {
            "state": state,
            "note": note,
            "seconds": time.monotonic() - began,
            "rows": rows,
        }

    def close(self) -> None:
        """End the process whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _hear(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return {"out of time": f"after {max(0.0, seconds):.0f} s more"}
        if line is None:
            self._process.wait()
            end = self._errors.read_text(encoding="utf-8", errors="replace").strip()
            return {"failed": end[-1500:] or f"exit code {self._process.returncode}"}
        return dict(json.loads(line))


class Crew:
    """The process at work and the next one, which imports meanwhile. On CPUs one does it all."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self._settings = {
            "work": str(work),
            "tiny": options.tiny,
            "big": options.big,
            "cpu": options.cpu,
        }
        self._work = work
        self._count = 0
        self._now: Worker | None = None
        self._next: Worker | None = None

    def current(self) -> Worker:
        if self._now is None:
            self._now = self._next or self._start()
            self._next = None
        return self._now

    def run(self, section: str, seconds: float) -> dict[str, Any]:
        if seconds <= 0:
            return {"state": "skipped", "note": "no time left", "seconds": 0.0, "rows": []}
        worker = self.current()
        separate = worker.cuda  # a fresh process per section: no memory or patch is left behind
        if separate and self._next is None:
            self._next = self._start()
        found = worker.run(section, seconds)
        if separate or found["state"] in ("failed", "out of time"):
            worker.close()
            self._now = None
        return found

    def close(self) -> None:
        for worker in (self._now, self._next):
            if worker is not None:
                worker.close()

    def _start(self) -> Worker:
        self._count += 1
        return Worker(self._settings, self._work / f"worker-{self._count}.stderr")


def environment(settings: dict[str, Any]) -> dict[str, str]:
    path = [str(report.REPOSITORY / "scripts"), str(report.REPOSITORY / "train")]
    inherited = os.environ.get("PYTHONPATH")  # may be where the libraries are
    path += [inherited] if inherited else []
    found = {**os.environ, **report.SILENT, "PYTHONPATH": os.pathsep.join(path)}
    if settings["cpu"]:
        found |= {"TANREN_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return found


# --- report ---------------------------------------------------------------------------------------


def failed(found: dict[str, Any]) -> bool:
    wrong = any(row.get("ok") is False for row in found["rows"])
    return wrong or found["state"] in ("failed", "out of time")


def save(options: argparse.Namespace, result: dict[str, Any]) -> None:
    folder = report.output_folder(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=1, default=str)
    (folder / "gpu_check.json").write_text(text + "\n", encoding="utf-8")
    (folder / "gpu_check.md").write_text(markdown(result) + "\n", encoding="utf-8")


def markdown(result: dict[str, Any]) -> str:
    parts = [f"# GPU check\n\n{report.footer({**result, 'gpu': gpu_name(result)})}."]
    for name, found in result["sections"].items():
        verdict = "FAILED" if failed(found) else found["state"]
        lines = [f"## {name}: {verdict}, {found['seconds']:.0f} s"]
        if found["note"]:
            lines.append(f"{found['state']}: `{found['note'].splitlines()[-1]}`")
        if found["rows"]:
            header = list(dict.fromkeys(key for row in found["rows"] for key in row))
            rows = [[row.get(key) for key in header] for row in found["rows"]]
            lines.append(report.table(header, rows))
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def gpu_name(result: dict[str, Any]) -> str | None:
    rows = result["sections"].get("environment", {}).get("rows", [])
    return next((row["found"] for row in rows if row["what"] == "gpu"), None)


if __name__ == "__main__":
    sys.exit(main())

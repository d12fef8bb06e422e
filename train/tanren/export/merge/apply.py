"""Carrying out a merge plan: file by file, tensor by tensor, some hundred thousand numbers at once.

What does not change is copied byte by byte. The memory in use is the adapter's, that of a few
pieces, and for a base in 4 bits that of a tensor or two.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from tanren.export.merge.checkpoint import INDEX, SINGLE, SafetensorsWriter
from tanren.export.merge.pieces import pieces, shape_of
from tanren.export.merge.plan import MergePlan

Progress = Callable[[str, int], None]
Outline = list[tuple[str, torch.dtype, tuple[int, ...]]]


def merge(
    plan: MergePlan,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the merged weights into `folder`, in files as the base has them, with an index where
    there are several. `dtype` None keeps each tensor's own type; whole numbers keep theirs always.
    `progress` hears each tensor's name and bytes.
    """
    where = device or torch.device("cpu")
    names: dict[str, str] = {}
    total = 0
    with _one_thread_an_operation(), _Line(where) as line:
        for file in plan.checkpoint.files:
            tensors = _outline(plan, file, dtype)
            with SafetensorsWriter(folder / file.name, tensors) as writer:
                _write_file(plan, line, writer, tensors, where, progress)
            names |= {name: file.name for name, _, _ in tensors}
            total += sum(torch.Size(shape).numel() * kind.itemsize for _, kind, shape in tensors)
    if [file.name for file in plan.checkpoint.files] != [SINGLE]:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
        text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
        (folder / INDEX).write_text(text, encoding="utf-8")


def _outline(plan: MergePlan, file: Path, dtype: torch.dtype | None) -> Outline:
    """Names, types and shapes of one file of the result, in the order of writing."""
    names = plan.checkpoint.in_file(file)
    names += [new for new, origin in plan.added.items() if origin in names]
    found: Outline = []
    for name in names:
        own = plan.checkpoint.places[plan.added.get(name, name)].dtype
        kind = dtype if dtype is not None and own.is_floating_point else own
        found.append((name, kind, shape_of(plan, name)))
    return found


def _write_file(
    plan: MergePlan,
    line: _Line,
    writer: SafetensorsWriter,
    tensors: Outline,
    where: torch.device,
    progress: Progress | None,
) -> None:
    for name, kind, _ in tensors:
        place = plan.checkpoint.places[plan.added.get(name, name)]
        if name not in plan.changes and kind == place.dtype:
            line.then(writer.copy, place)
        else:
            for piece in pieces(plan, name, kind, where):
                made = line.make(piece)
                line.then(lambda made=made: writer.write(made.result()))
        if progress is not None:
            progress(name, place.bytes)
    line.wait()


class _Line:
    """Pieces are made by as many threads as there are cores and written by one, in order."""

    def __init__(self, where: torch.device) -> None:
        makers = 1 if where.type == "cuda" else _cores()
        self._most = 2 * makers + 2
        self._makers = ThreadPoolExecutor(makers)
        self._writer = ThreadPoolExecutor(1)
        self._behind: deque[Future[None]] = deque()

    def make(self, piece: Callable[[], torch.Tensor]) -> Future[torch.Tensor]:
        return self._makers.submit(piece)

    def then(self, work: Callable[..., None], *arguments: object) -> None:
        """Do this after what was asked for before; waits while much is still to be done."""
        self._behind.append(self._writer.submit(work, *arguments))
        while len(self._behind) > self._most:
            self._behind.popleft().result()

    def wait(self) -> None:
        """Until all is done. Raises what went wrong first."""
        while self._behind:
            self._behind.popleft().result()

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._makers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)


def _cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _one_thread_an_operation() -> Iterator[None]:
    """The threads are the pieces' own: torch's would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

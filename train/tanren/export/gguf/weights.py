"""The tensors of a model folder, read piece by piece: shapes at once, numbers when asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tanren.errors import Fault, ModelError

FLOATS = frozenset({"F32", "F16", "BF16", "F64"})
PIECE_BYTES = 8 << 20
"""How much of a tensor is in memory at a time, in bytes of float32."""


class Weights:
    """All safetensors files of a folder, open. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Any] = {}
        self._open = ExitStack()

    def __enter__(self) -> Weights:
        try:
            for file in self._paths():
                self._add(file)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _paths(self) -> list[Path]:
        """The files that the index names, or all there are. Raises ModelError for missing ones."""
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [self.folder / name for name in sorted(set(names))]
        else:
            files = sorted(self.folder.glob("*.safetensors"))
        missing = [file for file in files if not file.is_file()]
        if missing or not files:
            faults = [
                Fault(str(f), "no such file", "a part of the weights", "merge the model again")
                for f in missing or [self.folder / "model.safetensors"]
            ]
            raise ModelError.of(*faults)
        return files

    def _add(self, file: Path) -> None:
        try:
            opened = self._open.enter_context(safe_open(file, framework="pt"))
            for name in opened.keys():  # noqa: SIM118 - not a dict
                part = opened.get_slice(name)
                if part.get_dtype() not in FLOATS:
                    raise ModelError.of(
                        Fault(
                            f"{file} {name}",
                            f"numbers of type {part.get_dtype()}",
                            "floating-point weights",
                            "merge the model first: quantised weights cannot be written again",
                        )
                    )
                self.shapes[name] = tuple(part.get_shape())
                self._files[name] = opened
        except (SafetensorError, OSError) as error:
            raise ModelError.of(
                Fault(
                    str(file),
                    f"a damaged file ({str(error).strip()[:120]})",
                    "safetensors",
                    "merge the model again",
                )
            ) from error

    def whole(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def rows(self, name: str) -> Iterator[Tensor]:
        """The tensor in blocks of whole rows (its first axis), `PIECE_BYTES` or one row each."""
        shape = self.shapes[name]
        if len(shape) < 2:
            yield self.whole(name)
            return
        part = self._files[name].get_slice(name)
        width = 1
        for size in shape[1:]:
            width *= size
        step = max(1, PIECE_BYTES // (4 * width))
        for start in range(0, shape[0], step):
            yield part[start : start + step]

    def expert_rows(self, name: str, half: int) -> Iterator[Tensor]:
        """Of stacked experts (experts, 2 x width, hidden), one half of each: 0 is the gate."""
        part = self._files[name].get_slice(name)
        width = self.shapes[name][1] // 2
        for expert in range(self.shapes[name][0]):
            yield part[expert : expert + 1, half * width : (half + 1) * width][0]

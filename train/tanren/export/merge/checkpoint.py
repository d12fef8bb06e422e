"""A checkpoint on disk: which tensor lies in which safetensors file, and a writer for one file.

Nothing is read but headers until a tensor is asked for, and a file is written tensor by tensor, so
that neither costs the memory of a whole shard. The format: eight bytes with the header's length,
the header as JSON (name -> dtype, shape, byte range), the numbers one after the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from tanren.errors import Fault, ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8
_LARGEST_HEADER = 100_000_000
_COPY_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor's numbers lie: `begin` is counted from the start of the file, in bytes."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.itemsize


class Checkpoint:
    """The safetensors files of a model folder. `places` keeps the order in which numbers lie."""

    def __init__(self, folder: Path) -> None:
        """Read all headers. Raises ModelError with every file that is missing or damaged."""
        self.folder = folder
        self.files = _files(folder)
        self.places: dict[str, TensorPlace] = {}
        faults = []
        for file in self.files:
            try:
                self.places |= _places(file)
            except (ValueError, KeyError, TypeError) as error:
                faults.append(
                    Fault(
                        str(file),
                        f"a damaged file ({error})",
                        "a whole safetensors file",
                        "download it again",
                    )
                )
        faults += self._index_faults() if not faults else []
        if faults:
            raise ModelError.of(*faults)

    def _index_faults(self) -> Iterator[Fault]:
        index = self.folder / INDEX
        if not index.is_file():
            return
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        lost = sorted(set(named) - self.places.keys())
        if lost:
            yield Fault(
                str(index),
                f"{len(lost)} tensors that no file has, the first is {lost[0]}",
                "files with all tensors of the index",
                "download the model again",
            )

    @property
    def bytes(self) -> int:
        return sum(place.bytes for place in self.places.values())

    @property
    def elements(self) -> int:
        return sum(place.elements for place in self.places.values())

    def in_file(self, file: Path) -> list[str]:
        return [name for name, place in self.places.items() if place.file == file]

    def read(self, name: str) -> Tensor:
        """One tensor, in its own type, on the CPU."""
        place = self.places[name]
        return self.read_range(name, 0, place.elements).view(place.shape)

    def read_range(self, name: str, start: int, count: int) -> Tensor:
        """`count` elements from `start` on, flat."""
        place = self.places[name]
        if count == 0:
            return torch.empty(0, dtype=place.dtype)
        raw = torch.empty(count * place.dtype.itemsize, dtype=torch.uint8)
        with open(place.file, "rb", buffering=0) as file:
            file.seek(place.begin + start * place.dtype.itemsize)
            _read_whole(file, raw.numpy().data, place.file)
        return raw.view(place.dtype)


def _read_whole(file: Any, into: memoryview, path: Path) -> None:
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])
        if not count:
            raise ModelError.of(
                Fault(str(path), "an early end", "a whole safetensors file", "download it again")
            )
        done += count


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights; all that are missing are named at once."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError.of(
                Fault(
                    str(index),
                    f"a damaged index ({error})",
                    "JSON with a weight_map",
                    "download it again",
                )
            ) from None
        files = [folder / name for name in names]
    else:
        files = [folder / SINGLE]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ModelError.of(
            *(
                Fault(
                    str(file),
                    "no such file",
                    f"{len(files)} files of weights",
                    "download the missing file",
                )
                for file in missing
            )
        )
    return files


def _places(file: Path) -> dict[str, TensorPlace]:
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise ValueError("its header is not whole")
        header = json.loads(handle.read(length))
    data = 8 + length
    found = []
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if facts["dtype"] not in DTYPES:
            raise ValueError(f"{name} has the type {facts['dtype']}, which is not known")
        begin, end = facts["data_offsets"]
        place = TensorPlace(file, DTYPES[facts["dtype"]], tuple(facts["shape"]), data + begin)
        if end - begin != place.bytes or data + end > size:
            raise ValueError(f"{name} ends outside of it")
        found.append((name, place))
    return dict(sorted(found, key=lambda pair: pair[1].begin))


class SafetensorsWriter:
    """Writes one safetensors file, tensor by tensor, in the order that was announced."""

    def __init__(
        self, path: Path, tensors: Sequence[tuple[str, torch.dtype, tuple[int, ...]]]
    ) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        begin = 0
        for name, dtype, shape in tensors:
            end = begin + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [begin, end],
            }
            begin = end
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % _ALIGNMENT)
        self._header = len(text).to_bytes(8, "little") + text
        self._size = len(self._header) + begin
        self._path = path

    def write(self, numbers: Tensor) -> None:
        """Append a contiguous tensor's bytes (little-endian, as torch has them on the CPU)."""
        self._append(numbers.reshape(-1).view(torch.uint8).numpy().data)

    def copy(self, place: TensorPlace) -> None:
        """Append a tensor's bytes from another file, a few megabytes at a time."""
        buffer = memoryview(bytearray(min(_COPY_BYTES, place.bytes)))
        with open(place.file, "rb", buffering=0) as source:
            source.seek(place.begin)
            left = place.bytes
            while left:
                part = buffer[: min(left, len(buffer))]
                _read_whole(source, part, place.file)
                self._append(part)
                left -= len(part)

    def _append(self, left: memoryview) -> None:
        while left:
            left = left[self._file.write(left) :]

    def __enter__(self) -> Self:
        self._file = open(self._path, "wb", buffering=0)
        try:
            self._append(memoryview(self._header))
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            written = self._file.tell()
            assert written == self._size, f"{written} bytes written, {self._size} announced"
        self._file.close()

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
from typing import Any, Self, TypeGuard

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
_WHOLE = "a whole safetensors file"


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
            except (ValueError, RecursionError) as error:
                found = f"a damaged file ({str(error)[:100]})"
                faults.append(Fault(str(file), found, _WHOLE, "download it again"))
            except OSError as error:
                faults.append(_unreadable(file, error))
        faults += self._index_faults() if not faults else []
        if faults:
            raise ModelError.of(*faults)

    def _index_faults(self) -> Iterator[Fault]:
        if (self.folder / SINGLE).is_file():
            return
        index = self.folder / INDEX
        lost = sorted(_weight_map(index).keys() - self.places.keys())
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
            raise ModelError.of(Fault(str(path), "an early end", _WHOLE, "download it again"))
        done += count


def _unreadable(file: Path, error: OSError) -> Fault:
    found = f"a file that cannot be read ({error.strerror})"
    return Fault(str(file), found, _WHOLE, "change its permissions, or download it again")


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights; all that are missing are named at once. As for transformers,
    an index counts only where there is no single file.
    """
    index = folder / INDEX
    if index.is_file() and not (folder / SINGLE).is_file():
        files = [folder / name for name in sorted(set(_weight_map(index).values()))]
    else:
        files = [folder / SINGLE]
    missing = [file for file in files if not file.is_file()]
    if missing:
        expected = f"{len(files)} files of weights"
        remedy = "download the missing file"
        raise ModelError.of(
            *(Fault(str(file), "no such file", expected, remedy) for file in missing)
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name. Raises ModelError for an index that does not say so."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError.of(_damaged_index(index, str(error)[:100])) from None
    names = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(names, dict) or not names:
        raise ModelError.of(_damaged_index(index, "no tensors in its weight_map"))
    strange = [name for name in names.values() if not _is_file_name(name)]
    if strange:
        raise ModelError.of(_damaged_index(index, f"{strange[0]!r} in place of a file's name"))
    return names


def _is_file_name(name: object) -> bool:
    """Whether this names a file of the folder itself."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and "\0" not in name
        and (Path(name).name == name)
    )


def _damaged_index(index: Path, words: str) -> Fault:
    expected = "JSON whose weight_map names a file of this folder for each tensor"
    return Fault(str(index), f"a damaged index ({words})", expected, "download it again")


def _places(file: Path) -> dict[str, TensorPlace]:
    """Raises ValueError for a file that is none, or is not whole."""
    size = file.stat().st_size
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
            raise ValueError("its header is not whole")
        header = json.loads(handle.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header names no tensors")
    data = 8 + length
    found = [
        (name, _place(file, name, facts, data, size))
        for name, facts in header.items()
        if name != "__metadata__"
    ]
    if not found:
        raise ValueError("it holds no tensors")
    return dict(sorted(found, key=lambda pair: pair[1].begin))


def _place(file: Path, name: str, facts: Any, data: int, size: int) -> TensorPlace:
    """What the header says of one tensor; its numbers are counted from `data` on."""
    if not isinstance(facts, dict):
        raise ValueError(f"{name} is not described")
    dtype, shape, offsets = facts.get("dtype"), facts.get("shape"), facts.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} has the type {dtype!r}, which is not known")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has no shape or place")
    begin, end = offsets
    place = TensorPlace(file, DTYPES[dtype], tuple(shape), data + begin)
    if end - begin != place.bytes or data + end > size:
        raise ValueError(f"{name} ends outside of it")
    return place


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)


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

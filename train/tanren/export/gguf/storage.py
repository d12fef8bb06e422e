"""Numbers as bytes of the file's types, and the file itself, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Stored
from torch import Tensor

from tanren.errors import Fault, ModelError, StorageError
from tanren.export.gguf.kinds import GgufType
from tanren.export.gguf.layers import Planned
from tanren.export.gguf.weights import Weights
from tanren.rundir import storage_errors

STORED: dict[GgufType, Stored] = {
    GgufType.F32: Stored.F32,
    GgufType.F16: Stored.F16,
    GgufType.BF16: Stored.BF16,
    GgufType.Q8_0: Stored.Q8_0,
}
FILE_TYPES: dict[GgufType, gguf.LlamaFileType] = {
    GgufType.F32: gguf.LlamaFileType.ALL_F32,
    GgufType.F16: gguf.LlamaFileType.MOSTLY_F16,
    GgufType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
    GgufType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}
F16_OVERFLOW = 65520.0
"""From here on numbers round to infinity in float16, whose largest is 65504."""
BLOCK = 32
"""Numbers of a row that Q8_0 stores together."""


def stored_as(name: str, shape: tuple[int, ...], kind: GgufType) -> Stored:
    """The type of one tensor: vectors, norms and routers stay float32, and rows that are no whole
    number of blocks become float16 in a Q8_0 file, as llama.cpp does.
    """
    precise = len(shape) < 2 or name.endswith(("_norm.weight", "ffn_gate_inp.weight"))
    if precise:
        return Stored.F32
    if kind is GgufType.Q8_0 and shape[-1] % BLOCK:
        return Stored.F16
    return STORED[kind]


def size_of(shape: tuple[int, ...], stored: Stored) -> int:
    """Bytes of a tensor."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
    return int(np.prod(shape, dtype=np.int64)) // block * block_bytes


def encode(numbers: Tensor, stored: Stored, name: str) -> np.ndarray:
    """Numbers as the bytes of a type. Raises ModelError for what float16 cannot hold."""
    if stored is Stored.F32:
        return numbers.float().contiguous().numpy()
    if stored is Stored.BF16:
        return numbers.to(torch.bfloat16).contiguous().view(torch.int16).numpy()
    if stored is Stored.Q8_0:
        return gguf.quants.quantize(numbers.float().contiguous().numpy(), stored)
    largest = max(-float(numbers.min()), float(numbers.max()))
    if not largest < F16_OVERFLOW:  # also when it is not a number
        raise ModelError.of(
            Fault(
                name,
                f"a weight of {largest:.3g}",
                "weights up to 65504, which is all that f16 can hold",
                "write bf16 or f32 instead",
            )
        )
    return numbers.to(torch.float16).contiguous().numpy()


@contextmanager
def staged_file(target: Path, size: int) -> Iterator[Path]:
    """A file beside its place that appears under its name whole, or not at all (T14).

    `size` in bytes is asked of the disk first. Raises StorageError when there is no room.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _require_room(target, size)
        try:
            yield staged
            with open(staged, "rb") as written:
                os.fsync(written.fileno())
            os.replace(staged, target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise


def _require_room(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < size:
        raise StorageError(
            "could not write",
            [
                Fault(
                    str(target),
                    f"{free / 1e9:.2f} GB free",
                    f"room for {size / 1e9:.2f} GB",
                    "free some space or choose another --out; nothing was written",
                )
            ],
        )


def write_tensors(
    writer: gguf.GGUFWriter,
    plan: Sequence[Planned],
    weights: Weights,
    target: Path,
    kind: GgufType,
) -> int:
    """Everything that `writer` was told, then the planned tensors, piece by piece; returns bytes.

    Of the numbers no more than one piece is in memory (a whole tensor where rows are reordered).
    """
    stored = {t.name: stored_as(t.name, t.shape, kind) for t in plan}
    for tensor in plan:
        size = size_of(tensor.shape, stored[tensor.name])
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), size, stored[tensor.name]
        )
    total = sum(size_of(t.shape, stored[t.name]) for t in plan)
    with staged_file(target, total) as staged:
        try:
            writer.write_header_to_file(staged)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            assert writer.fout is not None
            file = writer.fout[0]
            writer.write_padding(file, file.tell())
            for tensor in plan:
                start = file.tell()
                for piece in tensor.pieces(weights):
                    data = encode(piece, stored[tensor.name], tensor.name)
                    file.write(data.data.cast("B"))
                written = file.tell() - start
                assert written == size_of(tensor.shape, stored[tensor.name]), tensor.name
                writer.write_padding(file, written)
            written = file.tell()
            writer.close()
        except BaseException:
            for opened in writer.fout or ():
                with suppress(OSError):  # what could not be written cannot be flushed either
                    opened.close()
            raise
    return written

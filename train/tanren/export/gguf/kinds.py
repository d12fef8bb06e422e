"""What a GGUF export is: the types that we write, and what was written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tanren.export.gguf.likeness import Likeness


class GgufType(StrEnum):
    """How matrices are stored. Vectors, norms and routers are float32 in every type, as llama.cpp
    has it.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    """Blocks of 32 numbers in 8 bits with one float16 scale: 8.5 bits a weight."""


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file that was written, and everything a person should know about it.

    `notes` say what a reader of the file does otherwise than the model on disk, `left_out` which
    tensors of the folder are not in it. `likeness` is what llama.cpp makes of prompts, worked out
    before anything was written; None for adapters, which carry no tokenizer.
    """

    path: Path
    type: GgufType
    architecture: str
    tensors: int
    size_bytes: int
    likeness: Likeness | None
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    transformers_reads_it: bool
    """Whether transformers' own GGUF reader knows the architecture. Where it does not, only
    llama.cpp can prove the file.
    """

"""Encoded sequences, laid end to end in flat arrays."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tanren.template import backend_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""Label of a token that is not trained; what torch's cross-entropy ignores."""

_ARRAYS = {
    "input_ids": np.int32,
    "offsets": np.int64,
    "trained": np.bool_,
    "source_index": np.int32,
    "source_line": np.int32,
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Training sequences: five bytes a token, whatever the number of rows.

    input_ids     (tokens) int32, all sequences one after the other
    offsets       (sequences + 1) int64: sequence i is `input_ids[offsets[i]:offsets[i + 1]]`
    trained       (tokens) bool: the token has a label
    source_index  (sequences) int32: index into `sources`
    source_line   (sequences) int32: 1-based line in that file
    """

    input_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    trained: NDArray[np.bool_]
    source_index: NDArray[np.int32]
    source_line: NDArray[np.int32]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(sequences) tokens of each."""
        return np.diff(self.offsets)

    @property
    def trained_lengths(self) -> NDArray[np.int64]:
        """(sequences) trained tokens of each; at least 1."""
        return np.add.reduceat(self.trained, self.offsets[:-1], dtype=np.int64)

    @property
    def row_tokens(self) -> int:
        """Tokens of all rows, each row counting once: of a split row its longest sequence."""
        places = np.stack([self.source_index, self.source_line])
        starts = np.flatnonzero(np.any(np.diff(places, axis=1, prepend=-1), axis=0))
        return int(np.maximum.reduceat(self.lengths, starts).sum()) if len(self) else 0

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(input_ids, labels) of a sequence, each (length) int32; labels are ids or `IGNORED`.

        The ids are a view, the labels are new.
        """
        part = slice(self.offsets[index], self.offsets[index + 1])
        ids = self.input_ids[part]
        return ids, np.where(self.trained[part], ids, np.int32(IGNORED))

    def where(self, index: int) -> str:
        """`file:line` of the row that sequence `index` was made from."""
        return f"{self.sources[self.source_index[index]]}:{self.source_line[index]}"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All but `sources`, by name."""
        return {
            "input_ids": self.input_ids,
            "offsets": self.offsets,
            "trained": self.trained,
            "source_index": self.source_index,
            "source_line": self.source_line,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], sources: tuple[str, ...]) -> Encoded:
        """The inverse of `arrays`. Raises ValueError for arrays that do not fit each other."""
        encoded = cls(**{name: arrays[name] for name in _ARRAYS}, sources=sources)
        for name, kind in _ARRAYS.items():
            if arrays[name].dtype != kind or arrays[name].ndim != 1:
                raise ValueError(f"{name} is {arrays[name].dtype}, not a line of {np.dtype(kind)}")
        tokens, sequences = len(encoded.input_ids), len(encoded.source_line)
        whole = len(encoded.offsets) > 0 and encoded.offsets[0] == 0
        if (
            not whole
            or encoded.offsets[-1] != tokens
            or len(encoded.trained) != tokens
            or len(encoded) != sequences
            or len(encoded.source_index) != sequences
            or bool((encoded.lengths < 0).any())
        ):
            raise ValueError("the arrays' lengths do not agree")
        return encoded


class EncodedBuilder:
    """Collects sequences chunk by chunk; at the peak about one copy of the tokens is in memory."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._trained = bytearray()
        self._chunks: deque[tuple[NDArray[np.int32], NDArray[np.bool_]]] = deque()
        self._lengths = array("q")
        self._lines = array("i")
        self._files = array("i")
        self._sources: dict[str, int] = {}

    def add(self, ids: list[int], spans: Iterable[tuple[int, int]], source: str, line: int) -> None:
        """One sequence; `spans` are its trained tokens and may reach past its end."""
        trained = bytearray(len(ids))
        for start, end in spans:
            end = min(end, len(ids))
            trained[start:end] = b"\x01" * (end - start)
        self._ids.extend(ids)
        self._trained += trained
        self._lengths.append(len(ids))
        self._lines.append(line)
        self._files.append(self._sources.setdefault(source, len(self._sources)))

    def close_chunk(self) -> None:
        """Moves what was added since the last call out of the growing buffers."""
        ids = np.array(self._ids, dtype=np.int32)
        self._chunks.append((ids, np.frombuffer(self._trained, dtype=np.bool_)))
        self._ids, self._trained = array("i"), bytearray()

    def encoded(self) -> Encoded:
        """Everything that was added. The builder is empty afterwards."""
        self.close_chunk()
        total = sum(self._lengths)
        ids, trained = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.bool_)
        filled = 0
        while self._chunks:  # each chunk is freed as soon as it is copied
            some_ids, some_trained = self._chunks.popleft()
            part = slice(filled, filled + len(some_ids))
            ids[part], trained[part] = some_ids, some_trained
            filled = part.stop
        offsets = np.zeros(len(self._lengths) + 1, dtype=np.int64)
        np.cumsum(self._lengths, out=offsets[1:])
        return Encoded(
            input_ids=ids,
            offsets=offsets,
            trained=trained,
            source_index=np.array(self._files, dtype=np.int32),
            source_line=np.array(self._lines, dtype=np.int32),
            sources=tuple(self._sources),
        )


def trained_text(
    encoded: Encoded, index: int, tokenizer: PreTrainedTokenizerFast
) -> list[tuple[str, bool]]:
    """The text of a sequence, control tokens too, as pieces (text, is it trained), for a preview.

    Pieces come from decoding ever longer prefixes: SentencePiece drops a space at the start of what
    it decodes, so a piece decoded alone would lose it.
    """
    backend = backend_of(tokenizer)
    ids, labels = encoded.row(index)
    trained = labels != IGNORED
    changes = np.flatnonzero(np.diff(trained)) + 1
    pieces: list[tuple[str, bool]] = []
    before = ""
    start = 0
    for end in [*changes.tolist(), len(ids)]:
        text = backend.decode(ids[:end].tolist(), skip_special_tokens=False)
        pieces.append((text[len(before) :], bool(trained[start])))
        before, start = text, end
    return pieces

"""`Example` + chat template -> token ids, labels, and the ledger that accounts for all of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from tanren.chat import Example
from tanren.encode.encoded import Encoded, EncodedBuilder
from tanren.encode.ledger import NUM_LONGEST, Ledger, Lengths, LongRow
from tanren.encode.notes import RowNotes
from tanren.encode.spans import SpanTokens, TokenSequence
from tanren.errors import ConfigError, Fault, UserError
from tanren.template import ChatRenderer, Rendered, TrainOn, backend_of

if TYPE_CHECKING:
    from tokenizers import Encoding

CHUNK_ROWS = 1000
"""Rows encoded at once: enough for the tokenizer's threads, little memory."""


class RefusedRow(Protocol):
    """A row that reading has refused already, such as `data.read.Refused`."""

    @property
    def faults(self) -> tuple[Fault, ...]: ...


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """How rows become sequences. Raises ConfigError where the numbers cannot work.

    model_max_length  tokens that the model's positions allow
    max_length        tokens a sequence may have; "auto": the longest row, at most
                      `model_max_length`
    train_on          train every reply whose weight is not 0, or only the last of them
    truncation        "end": longer rows keep their start; "refuse": longer rows are not trained
    pairs             rows are preferences, each of them two sequences (`encode_pairs`)
    """

    model_max_length: int
    max_length: int | Literal["auto"] = "auto"
    train_on: TrainOn = "all"
    truncation: Literal["end", "refuse"] = "end"
    pairs: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= self.model_max_length:
            raise ConfigError.of(
                Fault(
                    where="data.max_length",
                    found=f"{self.max_length}",
                    expected=f'"auto" or 1 to {self.model_max_length}, the model\'s context',
                    remedy="set it within these bounds",
                )
            )

    @property
    def limit(self) -> int:
        """Tokens that no sequence exceeds."""
        return self.model_max_length if self.max_length == "auto" else self.max_length


def encode(
    examples: Iterable[Example | RefusedRow],
    renderer: ChatRenderer,
    settings: EncodeSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[Encoded, Ledger]:
    """Encodes all rows; none is lost without an entry in the ledger.

    `examples` may hold refused rows too: they are booked with their faults. `progress` is called
    with the number of rows done so far. Rows keep their order; the rows themselves are not kept.
    """
    return Encoder(renderer, settings).encode(examples, progress)


@dataclass(slots=True)
class Row:
    """A row on its way from texts to sequences."""

    example: Example
    rendered: list[Rendered]

    @property
    def where(self) -> str:
        return f"{self.example.source}:{self.example.line}"


class Encoder:
    """Books every row in the ledger and its sequences in `Encoded`."""

    def __init__(self, renderer: ChatRenderer, settings: EncodeSettings) -> None:
        self.ledger = Ledger(template=renderer.facts.as_dict())
        self.renderer = renderer
        self.settings = settings
        self._spans = SpanTokens(renderer)
        self._notes = RowNotes(renderer, self.ledger)
        self._longest: list[tuple[int, int, str]] = []
        self._built = EncodedBuilder()

    def encode(
        self, items: Iterable[Any], progress: Callable[[int], None] | None
    ) -> tuple[Encoded, Ledger]:
        rows = iter(items)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            self.add(chunk)
            if progress is not None:
                progress(self.ledger.source_rows)
        return self.finish()

    def add(self, chunk: list[Any]) -> None:
        rows = [row for item in chunk if (row := self.rendered(item)) is not None]
        encodings = iter(self._encoded(rendered for row in rows for rendered in row.rendered))
        for row in rows:
            sequences = self._sequences(row, [next(encodings) for _ in row.rendered])
            if sequences is None:
                self._refuse_joined(row)
            else:
                self.book(row, sequences)
        self._built.close_chunk()

    def finish(self) -> tuple[Encoded, Ledger]:
        ledger, settings = self.ledger, self.settings
        encoded = self._built.encoded()
        ledger.sequences = len(encoded)
        ledger.tokens = len(encoded.input_ids)
        ledger.trained_tokens = int(np.count_nonzero(encoded.trained))
        ledger.lengths = Lengths.of(encoded.lengths)
        longest_first = sorted(self._longest, reverse=True)
        ledger.longest = [LongRow(where, tokens) for tokens, _, where in longest_first]
        rounded_up = -(-ledger.lengths.max // 8) * 8
        automatic = min(settings.limit, rounded_up)
        ledger.max_length = automatic if settings.max_length == "auto" else settings.limit
        ledger.check()
        return encoded, ledger

    def rendered(self, item: Any) -> Row | None:
        self.ledger.source_rows += 1
        if not isinstance(item, Example):
            self.ledger.refuse("not valid", item.faults)
            return None
        try:
            return Row(item, self.renderer.turns(item, self.settings.train_on))
        except UserError as error:
            reason = "chat template" if item.trained_turns else "no trained reply"
            self.ledger.refuse(reason, error.faults)
            return None

    def _encoded(self, rendered: Iterable[Rendered]) -> list[Encoding]:
        texts = [one.text for one in rendered]
        backend = backend_of(self.renderer.tokenizer)
        return backend.encode_batch(texts, add_special_tokens=False)

    def _sequences(self, row: Row, encodings: list[Encoding]) -> list[TokenSequence] | None:
        """The row's sequences; None where prompt and reply of one cannot be told apart."""
        found = [
            self._spans.sequence(encoding, rendered)
            for encoding, rendered in zip(encodings, row.rendered, strict=True)
        ]
        if None in found and len(row.rendered[0].prompts) > 1:
            row.rendered = self.renderer.turns(row.example, self.settings.train_on, split=True)
            return self._sequences(row, self._encoded(row.rendered))
        sequences: list[TokenSequence] = []
        for one, rendered, encoding in zip(found, row.rendered, encodings, strict=True):
            if one is None:
                self.ledger.boundary_encodings += 1
                one = self._spans.joined(rendered, encoding)
            if one is None:
                return None
            sequences.append(one)
        return sequences

    def book(self, row: Row, sequences: list[TokenSequence]) -> None:
        limit = self.settings.limit
        longest = max(len(sequence.ids) for sequence in sequences)
        self._remember_long(longest, row.where)
        if not any(sequence.spans for sequence in sequences):
            self._refuse_joined(row)
            return
        kept = self.kept(sequences)
        if longest > limit and (not kept or self.settings.truncation == "refuse"):
            self._refuse_long(row, sequences, longest)
            return
        for sequence in kept:
            ids = sequence.ids if len(sequence.ids) <= limit else sequence.ids[:limit]
            self._built.add(ids, sequence.spans, row.example.source, row.example.line)
        if longest > limit:
            self.ledger.dropped_sequences += len(sequences) - len(kept)
            self._book_cut(row, sequences, limit)
        else:
            self.ledger.trained_whole += 1
        self.note(row)

    def note(self, row: Row) -> None:
        self._notes.book(row.example, row.rendered)

    def kept(self, sequences: list[TokenSequence]) -> list[TokenSequence]:
        """Those that still teach something within the limit; none: the row is refused."""
        limit = self.settings.limit
        return [sequence for sequence in sequences if sequence.trained_before(limit) > 0]

    def _book_cut(self, row: Row, sequences: list[TokenSequence], limit: int) -> None:
        """Tokens of a row that is trained without its end. A dropped sequence is lost whole."""
        ledger = self.ledger
        ledger.trained_cut += 1
        ledger.cut.add(row.where)
        for sequence in sequences:
            trained = sequence.trained_before(len(sequence.ids))
            left = sequence.trained_before(limit)
            ledger.cut_trained_tokens += trained - left
            ledger.cut_tokens += max(0, len(sequence.ids) - (limit if left else 0))
            for start, end in sequence.spans:
                ledger.cut_replies += start < limit < end
                ledger.lost_replies += start >= limit

    def _refuse_long(self, row: Row, sequences: list[TokenSequence], longest: int) -> None:
        limit = self.settings.limit
        first = 1 + min(start for sequence in sequences for start, _ in sequence.spans)
        fits = longest <= self.settings.model_max_length
        remedy = (
            f"set data.max_length to {longest} or more"
            if fits
            else f"shorten the row: the model's context is {self.settings.model_max_length} tokens"
        )
        fault = Fault(
            where=row.where,
            found=f"{longest} tokens, the first trained one at {first}, with a limit of {limit}",
            expected="a row within the limit"
            if first <= limit
            else "at least one trained token within the limit",
            remedy=remedy,
        )
        self.ledger.refuse("too long", [fault])

    def _refuse_joined(self, row: Row) -> None:
        fault = Fault(
            where=row.where,
            found="a reply that the tokenizer joins with what stands before or behind it",
            expected="a reply and an end of turn that have tokens of their own",
            remedy="change the first or last characters of the reply, or remove the row",
        )
        self.ledger.refuse("no token boundary", [fault])

    def _remember_long(self, tokens: int, where: str) -> None:
        # Of equally long rows the earlier one is remembered.
        entry = (tokens, -self.ledger.source_rows, where)
        if len(self._longest) < NUM_LONGEST:
            heapq.heappush(self._longest, entry)
        elif entry > self._longest[0]:
            heapq.heapreplace(self._longest, entry)

"""`Preference` + chat template -> two sequences a row, with the same prompt and only the answer
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tanren.chat import Preference
from tanren.encode.encoded import Encoded
from tanren.encode.ledger import Ledger
from tanren.encode.rows import Encoder, EncodeSettings, RefusedRow, Row
from tanren.encode.spans import TokenSequence
from tanren.errors import Fault, UserError
from tanren.template import ChatRenderer, Rendered


def encode_pairs(
    rows: Iterable[Preference | RefusedRow],
    renderer: ChatRenderer,
    settings: EncodeSettings,
    *,
    progress: Callable[[int], None] | None = None,
) -> tuple[Encoded, Ledger]:
    """Encodes all rows; none is lost without an entry in the ledger.

    Sequence 2i is the preferred answer of the i-th trained row, 2i + 1 the other one. Both begin
    with the same tokens: the prompt as inference has it. A row counts as cut when either was; one
    of which either would keep no token of its answer is refused.
    """
    return _PairEncoder(renderer, settings).encode(rows, progress)


@dataclass(slots=True)
class _PairRow(Row):
    preference: Preference


class _PairEncoder(Encoder):
    def rendered(self, item: Preference | RefusedRow) -> _PairRow | None:
        self.ledger.source_rows += 1
        if not isinstance(item, Preference):
            self.ledger.refuse("not valid", item.faults)
            return None
        try:
            # the answer is the last trained reply, so each half is one sequence
            halves = [self.renderer.turns(half, "last") for half in (item.preferred, item.rejected)]
        except UserError as error:
            self.ledger.refuse("chat template", error.faults)
            return None
        (preferred,), (rejected,) = halves
        return _PairRow(item.preferred, [preferred, rejected], item)

    def book(self, row: Row, sequences: list[TokenSequence]) -> None:
        preferred, rejected = sequences
        if not preferred.spans or not rejected.spans:
            super().book(row, [TokenSequence(preferred.ids, [])])
        elif len({_prompt(half) for half in row.rendered}) > 1:
            fault = Fault(
                row.where,
                "a prompt that the chat template or the tokenizer writes in two ways for the two "
                "answers",
                "the same prompt before both",
                "change the first characters of the answers, or remove the row",
            )
            self.ledger.refuse("two prompts", [fault])
        else:
            super().book(row, sequences)

    def kept(self, sequences: list[TokenSequence]) -> list[TokenSequence]:
        """Both or none."""
        kept = super().kept(sequences)
        return kept if len(kept) == len(sequences) else []

    def note(self, row: Row) -> None:
        super().note(row)
        assert isinstance(row, _PairRow)
        self._notes.book_typed_tokens(row.preference.rejected, unless=row.example)


def _prompt(half: Rendered) -> str:
    """Encoding has shown that a sequence begins with the tokens of its prompt alone."""
    return half.text[: half.prompts[0]]

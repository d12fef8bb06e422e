"""Accounts for every row and token between the data file and the trainer.

A law holds at all times (`Ledger.check`): each source row is in exactly one of trained whole,
trained cut, refused; and the tokens of the trained rows are either kept or cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tanren.errors import Fault

MAX_FAULTS_KEPT = 1000
MAX_PLACES_KEPT = 20
NUM_LONGEST = 5


@dataclass(slots=True)
class Tally:
    """How many rows something happened to, and where it happened first."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.places) < MAX_PLACES_KEPT:
            self.places.append(place)


@dataclass(frozen=True, slots=True)
class LongRow:
    """A row among the longest; `tokens` is its length before any cut."""

    where: str
    tokens: int


@dataclass(slots=True)
class Lengths:
    """Tokens per sequence, as trained (after cuts)."""

    min: int = 0
    median: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]) -> Lengths:
        """Percentiles are lengths that occur: the smallest that so many percent do not exceed."""
        if len(lengths) == 0:
            return cls()
        points = np.percentile(lengths, [0, 50, 90, 99, 100], method="inverted_cdf")
        return cls(*(int(point) for point in points))


@dataclass(slots=True)
class Ledger:
    """What became of the rows. Counts are rows unless the name says tokens, sequences or replies.

    source_rows             rows that were handed in
    trained_whole           rows trained from their first to their last trained token
    trained_cut             rows that were longer than `max_length` and lost tokens at their end
    refused                 reason -> rows; `faults` has each one's place and remedy
    sequences               training sequences; a split row makes one per trained reply
    split_rows              rows whose template rewrites earlier turns
    dropped_sequences       sequences of split rows that had no trained token left after the cut
    tokens, trained_tokens  in the sequences as trained
    cut_tokens, cut_trained_tokens      lost to `max_length`, in rows that are trained
    cut_replies             replies that lost their end: trained without an end of turn
    lost_replies            replies that lay wholly behind the cut
    unused_tail             rows with messages after the last trained reply, which teach nothing
    lost_reasoning_tokens   reasoning that the template removes from the context of later turns
    own_lost_reasoning_tokens  reasoning of trained replies that the template removes: not learned
    empty_reasoning         trained replies that teach an empty reasoning block
    boundary_encodings      sequences encoded as prompt + reply, because text joins them in a token
    special_text            rows with a control token such as `</s>` typed inside a message
    left_out                rows with text that the template does not write
    tools_left_out          rows whose tools the template does not show to the model
    developer_as_system     rows whose developer message is shown as a system message
    """

    source_rows: int = 0
    trained_whole: int = 0
    trained_cut: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)
    sequences: int = 0
    split_rows: int = 0
    dropped_sequences: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut_tokens: int = 0
    cut_trained_tokens: int = 0
    cut_replies: int = 0
    lost_replies: int = 0
    lost_reasoning_tokens: int = 0
    own_lost_reasoning_tokens: int = 0
    boundary_encodings: int = 0
    max_length: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    longest: list[LongRow] = field(default_factory=list)
    cut: Tally = field(default_factory=Tally)
    unused_tail: Tally = field(default_factory=Tally)
    empty_reasoning: Tally = field(default_factory=Tally)
    special_text: Tally = field(default_factory=Tally)
    left_out: Tally = field(default_factory=Tally)
    tools_left_out: Tally = field(default_factory=Tally)
    developer_as_system: Tally = field(default_factory=Tally)
    template: dict[str, Any] = field(default_factory=dict)

    @property
    def trained_rows(self) -> int:
        return self.trained_whole + self.trained_cut

    @property
    def refused_rows(self) -> int:
        return sum(self.refused.values())

    def refuse(self, reason: str, faults: Sequence[Fault]) -> None:
        """Books one row as refused. All its faults count; the first `MAX_FAULTS_KEPT` are kept."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self.fault_count += len(faults)
        self.faults.extend(faults[: MAX_FAULTS_KEPT - len(self.faults)])

    def check(self) -> None:
        """Asserts the law above: a difference is a bug of ours."""
        assert self.source_rows == self.trained_rows + self.refused_rows, self
        assert self.cut.count == self.trained_cut, self
        assert self.trained_tokens <= self.tokens, self
        assert self.trained_rows <= self.sequences, self

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types, for `data.json` and `--json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Ledger:
        """The inverse of `as_dict`. Raises TypeError for keys that are not ours."""
        tallies = {
            name: Tally(**plain[name])
            for name, kind in cls.__annotations__.items()
            if kind == "Tally"
        }
        return cls(
            **{
                **plain,
                **tallies,
                "faults": [Fault(**fault) for fault in plain["faults"]],
                "lengths": Lengths(**plain["lengths"]),
                "longest": [LongRow(**row) for row in plain["longest"]],
            }
        )

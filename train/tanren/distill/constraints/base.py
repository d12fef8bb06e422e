"""What a constraint is: settings that measure an answer and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from tanren.distill.rows import SourceRow
from tanren.endpoint.checked import Strict


@dataclass(frozen=True, slots=True)
class Problem:
    """`code` chooses the words, `facts` are placed into them. Not `mendable`: telling the teacher
    is of no use, and the row is rejected.
    """

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    mendable: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """`value` is a JSON value, kept with the row; without a problem the answer holds."""

    value: Any
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """One constraint's verdict on one answer. `words` are what the teacher is told; empty: it
    holds.
    """

    constraint: str
    value: Any
    words: str = ""
    mendable: bool = True

    @property
    def holds(self) -> bool:
        return not self.words

    def as_dict(self) -> dict[str, Any]:
        return {"constraint": self.constraint, "value": self.value, "words": self.words}


class Constraint(Strict):
    """A constraint's settings. One that knows itself by `name` has results under that name."""

    words: str | None = Field(
        None, description="Own Jinja text of what to mend; it is given the numbers by name."
    )

    @property
    def name(self) -> str:
        raise NotImplementedError

    def measure(self, text: str, row: SourceRow) -> Measured:
        """`text` has no white space around it."""
        raise NotImplementedError


def range_problem(
    code: str, found: float, low: float | None, high: float | None, **facts: Any
) -> Problem | None:
    """`<code>.low` or `<code>.high` where a number is out of bounds, with how far it is off."""
    bounds = {"found": found, "low": low, "high": high, **facts}
    if low is not None and found < low:
        return Problem(f"{code}.low", {**bounds, "off": low - found})
    if high is not None and found > high:
        return Problem(f"{code}.high", {**bounds, "off": found - high})
    return None

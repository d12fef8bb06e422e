"""What a moderator is: somebody who says of messages whether they are safe, and how sure that is.

Moderators themselves need models or endpoints and live above, in `tanren.moderate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Passage:
    """One message. `asked` is the user's last message before an assistant's; "" elsewhere."""

    text: str
    role: str
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`scores` from 0 to 1 by category, as far as the moderator tells them; `flagged`: the
    categories that it, or the threshold, calls unsafe.
    """

    scores: Mapping[str, float]
    flagged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unjudged:
    """No verdict, and why. Never taken for a safe one."""

    words: str


class Moderator(Protocol):
    @property
    def name(self) -> str: ...

    def judge(self, passages: Sequence[Passage]) -> Sequence[Verdict | Unjudged]:
        """One verdict for each passage, in order."""
        ...

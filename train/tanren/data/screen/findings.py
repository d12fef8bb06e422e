"""What screening can find, and which finding wins where several overlap."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

KINDS: dict[str, str] = {
    "secret": "keys, tokens, passwords, private keys",
    "card": "payment card numbers that pass the Luhn check",
    "my_number": "Japan's individual numbers (個人番号) that pass their check digit",
    "iban": "bank account numbers (IBAN) that pass their check digits",
    "ssn": "social security numbers of the United States",
    "passport": "passport numbers of Japan beside the word",
    "licence": "driver's licence numbers of Japan beside the word",
    "email": "e-mail addresses",
    "phone": "phone numbers",
    "postal_code": "Japanese postal codes",
    "address": "postal addresses, Japanese and American (best effort)",
    "ip": "public IP addresses (a note: redacted or dropped only if named)",
    "word": "words of the user's own list",
    "unsafe": "messages that a moderator calls unsafe",
}
"""Every kind with its meaning. Names of people are no kind: no rule finds them reliably."""

NOTES = frozenset({"ip"})
"""Kinds that an action for all kinds leaves alone: most are servers, not people."""

_ORDER = {kind: place for place, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Finding:
    """`start` and `end` count code points of the text as it was given; `rule` says what found
    it.
    """

    kind: str
    start: int
    end: int
    rule: str

    @property
    def length(self) -> int:
        return self.end - self.start


def without_overlaps(found: Iterable[Finding]) -> list[Finding]:
    """In order of place. The longest wins, then the kind that stands first in `KINDS`.

    A loser that sticks out lengthens the winner, so that no half of a value stays behind.
    """
    kept: list[Finding] = []
    for one in sorted(found, key=lambda f: (-f.length, _ORDER[f.kind], f.start)):
        rivals = [other for other in kept if other.start < one.end and one.start < other.end]
        if not rivals:
            kept.append(one)
            continue
        winner = rivals[0]
        for other in rivals:
            kept.remove(other)
        together = [one, *rivals]
        start, end = min(f.start for f in together), max(f.end for f in together)
        kept.append(replace(winner, start=start, end=end))
    return sorted(kept, key=lambda f: f.start)

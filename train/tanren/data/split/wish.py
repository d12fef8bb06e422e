"""How many rows each part is to have: counts or shares, and what cannot be had."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tanren.errors import ConfigError, Fault

DEFAULT_NAMES = {
    1: ("train",),
    2: ("train", "validation"),
    3: ("train", "validation", "test"),
}
REST = "rest"
_NAME = re.compile(r"[^\W_][\w.-]{0,63}")
_OURS = {"split", "complete", "ledger"}  # files that lie beside the parts


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, exact: shares are fractions, never floats."""

    kind: Literal["counts", "shares"]
    amounts: tuple[Fraction, ...]
    names: tuple[str, ...]
    rest: bool = False
    """Rows beyond the counts become a part of their own instead of a fault."""

    def targets(self, rows: int) -> tuple[int, ...]:
        """Rows of each part, `rest` included where it is wanted. ConfigError where impossible."""
        if self.kind == "shares":
            return self._by_shares(rows)
        counts = tuple(int(amount) for amount in self.amounts)
        left = rows - sum(counts)
        if left < 0:
            found = f"{' + '.join(map(str, counts))} = {sum(counts):,} rows"
            raise _impossible("--counts", found, f"at most {rows:,} rows", "ask for fewer rows")
        if self.rest:
            return (*counts, left)
        if left:
            raise _impossible(
                "--counts",
                f"{sum(counts):,} of {rows:,} rows, so that {left:,} would be lost",
                f"counts that add up to {rows:,}",
                f"raise a count, or add --rest to write the others to {REST}.jsonl",
            )
        return counts

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.names, REST) if self.rest else self.names

    def _by_shares(self, rows: int) -> tuple[int, ...]:
        total = sum(self.amounts)
        targets = largest_remainder([amount / total for amount in self.amounts], rows)
        for name, share, target in zip(self.names, self.amounts, targets, strict=True):
            if target == 0:
                needed = -(-total // share) if share else 0
                raise _impossible(
                    "--shares",
                    f"0 of {rows:,} rows for {name}",
                    f"at least one row in each part (from about {int(needed):,} rows on)",
                    "raise its share or leave the part out",
                )
        return tuple(targets)

    def as_dict(self) -> dict[str, object]:
        amounts = [
            int(a) if a.denominator == 1 else f"{a.numerator}/{a.denominator}" for a in self.amounts
        ]
        return {self.kind: amounts, "names": list(self.names), "rest": self.rest}


def counts_wish(text: str, names: str | None = None, *, rest: bool = False) -> Wish:
    """`70,30,30`. Raises ConfigError with every fault."""
    words = _words(text)
    faults = [
        Fault("--counts", f'"{word}"', "a whole number of rows, 1 or more", "write it in digits")
        for word in words
        if not (word.isascii() and word.isdecimal() and int(word) > 0)
    ]
    if faults:
        raise ConfigError("the counts cannot be used", faults)
    amounts = tuple(Fraction(word) for word in words)
    return Wish("counts", amounts, _names(names, len(amounts), rest=rest), rest)


def shares_wish(text: str, names: str | None = None) -> Wish:
    """`80,10,10` or `0.8,0.1,0.1`: only how they compare counts, and they must add up."""
    words = [word.removesuffix("%").strip() for word in _words(text)]
    bad = [word for word in words if not re.fullmatch(r"\d+(\.\d+)?", word, re.ASCII)]
    bad += [word for word in words if word not in bad and Fraction(word) == 0]
    if bad:
        faults = [
            Fault("--shares", f'"{word}"', "a share above 0", "write 80,10,10 or 0.8,0.1,0.1")
            for word in bad
        ]
        raise ConfigError("the shares cannot be used", faults)
    amounts = tuple(Fraction(word) for word in words)
    if sum(amounts) not in (1, 100):
        found = f"shares that add up to {_decimal(sum(amounts, Fraction(0)))}"
        raise _impossible("--shares", found, "100 (or 1)", "write shares such as 80,10,10")
    return Wish("shares", amounts, _names(names, len(amounts), rest=False))


def largest_remainder(shares: Sequence[Fraction], total: int) -> list[int]:
    """Whole numbers that add up to `total`, each the floor or the ceiling of its share of it.

    Hamilton's method; equal remainders go to the earlier part. `shares` add up to 1.
    """
    quotas = [share * total for share in shares]
    floors = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda i: (floors[i] - quotas[i], i))
    for index in by_remainder[: total - sum(floors)]:
        floors[index] += 1
    return floors


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _names(text: str | None, parts: int, *, rest: bool) -> tuple[str, ...]:
    if text is None:
        if parts not in DEFAULT_NAMES:
            raise _impossible(
                "--names",
                f"nothing for {parts} parts",
                "a name for each part",
                "write --names a,b,c,d",
            )
        return DEFAULT_NAMES[parts]
    names = tuple(_words(text))
    taken = _OURS | ({REST} if rest else set())
    faults = []
    if len(names) != parts:
        found = f"{len(names)} names for {parts} parts"
        faults.append(Fault("--names", found, "one name a part", "write as many names as numbers"))
    for name in names:
        if not _NAME.fullmatch(name) or name.casefold() in taken:
            expected = "a name of letters, digits, - and _ that is not taken"
            faults.append(Fault("--names", f'"{name}"', expected, "choose another name"))
    if len({name.casefold() for name in names}) != len(names):
        faults.append(Fault("--names", "a name twice", "different names", "rename one of them"))
    if faults:
        raise ConfigError("the names cannot be used", faults)
    return names


def _decimal(value: Fraction) -> str:
    return f"{float(value):g}"


def _impossible(where: str, found: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError("this split cannot be made", [Fault(where, found, expected, remedy)])

"""What is done about what was found, and how a redacted value is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from tanren.data.screen.detect import find
from tanren.data.screen.findings import KINDS, NOTES, Finding
from tanren.errors import ConfigError, Fault
from tanren.strict_json import close_match

Action = Literal["report", "redact", "drop"]
REPLACEMENT = "[{KIND}]"


@dataclass(frozen=True, slots=True)
class Plan:
    """`by_kind` says more than `default`; notes (public IP addresses) follow `by_kind` alone.

    `replacement` is written for a redacted value; {KIND} and {kind} stand for its kind. `numbered`
    gives every value of a row its own number, the same value the same one: [EMAIL_1].
    """

    default: Action = "report"
    by_kind: Mapping[str, Action] = field(default_factory=dict)
    replacement: str = REPLACEMENT
    numbered: bool = False

    def of(self, kind: str) -> Action:
        return self.by_kind.get(kind, "report" if kind in NOTES else self.default)

    @property
    def changes(self) -> bool:
        """Whether rows may come out other than they went in."""
        return any(self.of(kind) != "report" for kind in KINDS)

    def written(self, kind: str, number: int) -> str:
        name = f"{kind}_{number}" if self.numbered else kind
        return self.replacement.replace("{KIND}", name.upper()).replace("{kind}", name)


def read_plan(
    default: str = "report",
    *,
    report: Iterable[str] = (),
    redact: Iterable[str] = (),
    drop: Iterable[str] = (),
    replacement: str = REPLACEMENT,
    numbered: bool = False,
) -> Plan:
    """A plan from the words of a command line. ConfigError with every fault."""
    faults = []
    actions = get_args(Action)
    if default not in actions:
        faults.append(Fault("--action", repr(default), " | ".join(actions), "write one of them"))
    by_kind: dict[str, Action] = {}
    wanted: tuple[tuple[Action, Iterable[str]], ...] = (
        ("report", report),
        ("redact", redact),
        ("drop", drop),
    )
    for action, kinds in wanted:
        for kind in kinds:
            faults += _kind_faults(f"--{action}", kind, by_kind)
            by_kind[kind] = action
    plan = Plan("report", by_kind, replacement, numbered)
    faults += _replacement_faults(plan)
    if by_kind.get("unsafe", default) == "redact":
        remedy = "add --drop unsafe or --report unsafe"
        fault = Fault("--redact", "unsafe", "a kind of which a part can be cut out", remedy)
        faults += [fault] if "unsafe" in by_kind else []
    if faults:
        raise ConfigError.of(*faults)
    for action in actions:
        if action == default:
            return Plan(action, by_kind, replacement, numbered)
    raise AssertionError(default)


def _kind_faults(option: str, kind: str, before: Mapping[str, Action]) -> list[Fault]:
    if kind not in KINDS:
        near = close_match(kind, tuple(KINDS))
        remedy = f"did you mean {near!r}?" if near else "write one of them"
        return [Fault(option, repr(kind), " | ".join(KINDS), remedy)]
    if kind in before:
        found = f"{kind!r}, which has --{before[kind]} too"
        return [Fault(option, found, "one action for a kind", "take one of them away")]
    return []


def _replacement_faults(plan: Plan) -> list[Fault]:
    """A replacement that is itself found would be redacted again with every screening."""
    if any(ord(character) < 32 for character in plan.replacement):
        remedy = "write it on one line"
        return [Fault("--replacement", "a control character", "plain text", remedy)]
    for kind in KINDS:
        written = plan.written(kind, 1)
        if find(written):
            found = f"{written!r}, which screening finds again"
            return [Fault("--replacement", found, "a text like [EMAIL]", "change it")]
    return []


class Redactor:
    """Writes one row's values; the numbers begin anew with each row."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers: dict[str, dict[str, int]] = {}

    def redact(self, text: str, found: Iterable[Finding]) -> str:
        """`text` with every one of `found` (in order, not overlapping) that the plan redacts."""
        pieces, end = [], 0
        for one in found:
            if self._plan.of(one.kind) == "redact":
                pieces += [text[end : one.start], self._written(one, text)]
                end = one.end
        return "".join([*pieces, text[end:]])

    def _written(self, one: Finding, text: str) -> str:
        known = self._numbers.setdefault(one.kind, {})
        number = known.setdefault(same_value(one.kind, text[one.start : one.end]), len(known) + 1)
        return self._plan.written(one.kind, number)


def same_value(kind: str, value: str) -> str:
    """What two writings of one value have in common: digits of a number, small letters of an
    e-mail address.
    """
    import unicodedata

    plain = unicodedata.normalize("NFKC", value)
    if kind in ("phone", "card", "my_number", "ssn", "postal_code"):
        return "".join(character for character in plain if character.isdecimal())
    if kind in ("email", "iban", "word"):
        return plain.casefold().replace(" ", "")
    return plain


def masked(value: str) -> str:
    """What a ledger may show: two characters at each end of a value that is long enough not to be
    given away by them.
    """
    return f"{value[:2]}…{value[-2:]}" if len(value) >= 10 else "…"

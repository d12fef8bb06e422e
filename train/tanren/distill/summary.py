"""A distillation in numbers: lengths, how many answers held at first and after mending, and at what
cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median, stdev
from typing import Any

from tanren.distill.constraints import Constraints
from tanren.distill.loop import Attempt, Outcome


@dataclass(frozen=True, slots=True)
class Numbers:
    """`deviation` is the sample standard deviation (n - 1); None for fewer than two values."""

    count: int
    mean: float | None
    median: float | None
    least: float | None
    most: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Numbers:
        if not values:
            return cls(0, None, None, None, None, None)
        spread = stdev(values) if len(values) > 1 else None
        return cls(len(values), fmean(values), median(values), min(values), max(values), spread)


@dataclass(frozen=True, slots=True)
class Within:
    """So many of the decided rows held to all constraints."""

    rows: int
    share: float | None

    @classmethod
    def of(cls, rows: int, decided: int) -> Within:
        return cls(rows, rows / decided if decided else None)


@dataclass(frozen=True, slots=True)
class Summary:
    """`rows` = accepted + rejected + left. Lengths are in `length_unit`, of answers that are not
    empty; `length_within_*` count the length constraint alone, where there is one.
    """

    rows: int
    accepted: int
    rejected: int
    left: int
    left_reasons: dict[str, int]
    length_unit: str
    first_lengths: Numbers
    lengths: Numbers
    at_first: Within
    after_repair: Within
    after_all_tries: Within
    length_within_first: Within | None
    length_within_last: Within | None
    attempts: Numbers
    attempts_histogram: dict[str, int]
    seconds_per_row: Numbers
    prompt_tokens: int | None
    answer_tokens: int | None
    tokens_per_row: float | None
    broken_at_first: dict[str, int]
    rejected_by: dict[str, int]
    rejected_most: str | None
    with_reasoning: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(
    outcomes: Sequence[Outcome], left: Iterable[str], constraints: Constraints
) -> Summary:
    """`left`: for every row that is left, why."""
    reasons = Counter(left)
    accepted = [one for one in outcomes if one.accepted]
    decided = len(outcomes)
    unit, measure = _length(constraints)
    rejected_by = Counter(
        name for one in outcomes if not one.accepted for name in one.attempts[-1].broken
    )
    firsts = [one.attempts[0] for one in outcomes]
    prompt = _sum(outcome.prompt_tokens for outcome in outcomes)
    answer = _sum(outcome.answer_tokens for outcome in outcomes)
    tokens = prompt + answer if prompt is not None and answer is not None and decided else None
    attempts = [len(one.attempts) for one in outcomes]
    return Summary(
        rows=decided + reasons.total(),
        accepted=len(accepted),
        rejected=decided - len(accepted),
        left=reasons.total(),
        left_reasons=dict(reasons.most_common()),
        length_unit=unit,
        first_lengths=Numbers.of([measure(one.answer) for one in firsts if one.answer]),
        lengths=Numbers.of([measure(one.answer) for one in accepted]),
        at_first=Within.of(sum(one.holds for one in firsts), decided),
        after_repair=Within.of(sum(one.first_try[-1].holds for one in outcomes), decided),
        after_all_tries=Within.of(len(accepted), decided),
        length_within_first=_length_within(firsts, constraints),
        length_within_last=_length_within([o.attempts[-1] for o in outcomes], constraints),
        attempts=Numbers.of(attempts),
        attempts_histogram={str(n): count for n, count in sorted(Counter(attempts).items())},
        seconds_per_row=Numbers.of([one.seconds for one in outcomes]),
        prompt_tokens=prompt,
        answer_tokens=answer,
        tokens_per_row=tokens / decided if tokens is not None else None,
        broken_at_first=dict(Counter(n for one in firsts for n in one.broken).most_common()),
        rejected_by=dict(rejected_by.most_common()),
        rejected_most=rejected_by.most_common(1)[0][0] if rejected_by else None,
        with_reasoning=sum(bool(o.attempts[-1].reply and o.attempts[-1].reply.reasoning)
                           for o in accepted),
    )  # fmt: skip


def _length(constraints: Constraints) -> tuple[str, Callable[[str], int]]:
    """Unit and measure of the length constraint; without one, characters."""
    length = constraints.length
    return ("characters", len) if length is None else (length.unit, length.count)


def _length_within(attempts: Sequence[Attempt], constraints: Constraints) -> Within | None:
    if constraints.length is None:
        return None
    name = constraints.length.name
    held = [
        any(c.constraint == name and c.holds for c in attempt.checked) and not attempt.failure
        for attempt in attempts
    ]
    return Within.of(sum(held), len(attempts))


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where one of them is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total

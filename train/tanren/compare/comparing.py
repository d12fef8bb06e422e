"""Every arm against the reference, measure by measure: how large the difference, and how sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tanren.compare.data import ArmComparison, Measure
from tanren.compare.measures import RETENTION, VALIDATION_LOSS, Column
from tanren.compare.scores import compared_rows
from tanren.compare.seeds import SIGN, SIGNIFICANCE, Effect, paired, ratio
from tanren.compare.wording import (
    amount,
    counted,
    direction,
    p_words,
    sample,
    span,
    times,
)
from tanren.evaluate.statistics import holm

SAME_EVERY_SEED = "the same in every seed"
ASKED = (VALIDATION_LOSS, RETENTION)
_EXACT = ("adapter_bytes", "trained_parameters")
"""Follow from the settings alone: a single run says all."""


def compare_arms(
    columns: Sequence[Column], arms: Sequence[str], reference: str, seeds: Sequence[int], main: str
) -> tuple[ArmComparison, ...]:
    """All other arms against the reference by every measure. Holm's correction is made over the
    arms for the main measure, which the question is about, for the validation loss and for what is
    kept of general questions; over all other measures of quality together; and so over costs and
    over facts: what is merely described costs the answer nothing.
    Where nothing changed at all no p below 1 was possible, and the test does not count (Tarone
    1990).
    """
    found = [
        _Pair(column, arm, reference, _effect(column, arm, reference, seeds))
        for column in columns
        if column.is_compared and _known(column, reference)
        for arm in arms
        if arm != reference and _known(column, arm)
    ]
    families = [_family(pair.column.measure, main) for pair in found]
    corrected: dict[int, float | None] = {}
    for family in dict.fromkeys(families):
        places = [place for place, own in enumerate(families) if own == family]
        ps = holm([_testable(found[place].effect) for place in places])
        corrected.update(zip(places, ps, strict=True))
    many = {family: families.count(family) > 1 for family in families}
    return tuple(
        _comparison(pair, corrected[place], seeds, is_one_of_many=many[families[place]])
        for place, pair in enumerate(found)
    )


def compare_two(column: Column, arm: str, reference: str, seeds: Sequence[int]) -> ArmComparison:
    """One pair alone, without a correction."""
    pair = _Pair(column, arm, reference, _effect(column, arm, reference, seeds))
    return _comparison(pair, None, seeds, is_one_of_many=False)


@dataclass(frozen=True)
class _Pair:
    column: Column
    arm: str
    reference: str
    effect: Effect


def _testable(found: Effect) -> float | None:
    return None if found.test == SIGN and not found.difference else found.p_value


def _family(measure: Measure, main: str) -> str:
    """What is asked before anybody looks has a correction of its own: the main measure, the loss
    that arms are trained for, and what is forgotten.
    """
    return measure.name if measure.name in (main, *ASKED) else measure.kind


def _known(column: Column, arm: str) -> bool:
    return any(value is not None for value in column.values.get(arm, ()))


def _effect(column: Column, arm: str, reference: str, seeds: Sequence[int]) -> Effect:
    """Over seeds and rows where both have rows, else over seeds."""
    if not column.alike(arm, reference):
        return Effect(None, test="not comparable")
    ours, theirs = column.values[arm], column.values[reference]
    if column.measure.kind == "cost" and _is_exact(column, arm, reference):
        both = [
            (a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None
        ]
        if both:
            difference = both[0][0] - both[0][1]
            return Effect(difference, difference, difference, test=SAME_EVERY_SEED, seeds=len(both))
    if column.scores is not None:
        found = compared_rows(column.scores, arm, reference, seeds)
        if found is not None and found.difference is not None:
            return found
    return paired(ours, theirs)


def _is_exact(column: Column, arm: str, reference: str) -> bool:
    """No chance in it: each side says the same in every seed."""
    known = [[v for v in column.values[name] if v is not None] for name in (arm, reference)]
    enough = 1 if column.name in _EXACT else 2
    return all(len(values) >= enough and len(set(values)) == 1 for values in known)


def _comparison(
    pair: _Pair, adjusted: float | None, seeds: Sequence[int], *, is_one_of_many: bool
) -> ArmComparison:
    column, found = pair.column, pair.effect
    p = found.p_value if adjusted is None else adjusted
    exact = found.test == SAME_EVERY_SEED and bool(found.difference)
    of = None
    if column.measure.kind == "cost":
        of = ratio(column.values[pair.arm], column.values[pair.reference])
    comparison = ArmComparison(
        measure=column.name,
        arm=pair.arm,
        reference=pair.reference,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        p_adjusted=adjusted,
        shown=exact or (p is not None and p < SIGNIFICANCE),
        seeds=found.seeds,
        rows=found.rows,
        test=found.test,
        sentence="",
        ratio=of.mean if of else None,
        ratio_low=of.low if of else None,
        ratio_high=of.high if of else None,
        detectable=found.detectable,
    )
    told = _sentence(comparison, column.measure, is_one_of_many=is_one_of_many)
    if found.left_out:
        told += f"; left out: {counted(found.left_out, 'row')} that a side lacks"
    return replace(comparison, sentence=told)


# --- in words -------------------------------------------------------------------------------------


def _sentence(found: ArmComparison, measure: Measure, *, is_one_of_many: bool) -> str:
    if found.difference is None:
        if found.test == "not comparable":
            return "not compared: other tokenizers count the tokens"
        return "nothing to compare: no seed that both finished"
    if measure.kind == "cost":
        return _cost(found, measure)
    size = amount(found.difference, measure.unit, signed=True)
    if found.p_value is None:
        return f"measured {size}; {counted(found.seeds, 'seed')}: no interval"
    p = found.p_value if found.p_adjusted is None else found.p_adjusted
    p_told = p_words(p, corrected=found.p_adjusted is not None and is_one_of_many)
    of = sample(found.seeds, found.rows)
    if found.shown:
        words = f"{direction(measure, found.difference)} by "
        words += amount(abs(found.difference), measure.unit)
        told = [words, *_ends(found, measure, flipped=found.difference < 0), of, p_told]
    else:
        would = ""
        if found.detectable is not None:
            would = f" (they would show {amount(found.detectable, measure.unit)})"
        nothing_moved = found.test == SIGN and not found.difference
        measured = "no change at all" if nothing_moved else f"measured {size}"
        told = [f"no difference that {of} could show{would}; {measured}"]
        told += [*_ends(found, measure, flipped=False), p_told]
    return ", ".join(told) + (seeds_uncovered(found) if found.rows is not None else "")


def seeds_uncovered(found: ArmComparison) -> str:
    return "; one seed: what other seeds would give is not covered" if found.seeds == 1 else ""


def _ends(found: ArmComparison, measure: Measure, *, flipped: bool) -> list[str]:
    """The interval of the size of the difference, so turned round where it is a loss."""
    if found.low is None or found.high is None or found.low == found.high:
        return []
    low, high = (-found.high, -found.low) if flipped else (found.low, found.high)
    return [f"95% {span(low, high, measure.unit)}"]


def _cost(found: ArmComparison, measure: Measure) -> str:
    assert found.difference is not None
    size = amount(found.difference, measure.unit, signed=True)
    told = f"{times(found.ratio)} times" if found.ratio is not None else size
    if found.test == SAME_EVERY_SEED:
        return f"{told} ({size}), {SAME_EVERY_SEED}" if found.seeds > 1 else f"{told} ({size})"
    if found.ratio_low is None or found.ratio_high is None:
        return f"{told} ({size}); {counted(found.seeds, 'seed')}: no interval"
    ends = f"95% {times(found.ratio_low)} to {times(found.ratio_high)}"
    verdict = "" if found.shown else "; no difference that they could show"
    return f"{told}, {ends}, {counted(found.seeds, 'seed')}{verdict}"

"""What was found, in few honest sentences, the most important first."""

from __future__ import annotations

from collections.abc import Sequence

from tanren.compare.comparing import SAME_EVERY_SEED
from tanren.compare.data import Arm, ArmComparison, Comparison, Measure, Reach
from tanren.compare.measures import MEMORY, RETENTION, SECONDS
from tanren.compare.reach import SHARE
from tanren.compare.seeds import SIGN
from tanren.compare.wording import amount, counted, direction, listed, sample, span, times

MOST = 5
"""So many arms have a sentence of their own; beyond that they are counted."""
_CLEARLY = 0.05
"""A cost that is shown to differ by less than this share is not worth a word."""


def sentences(found: Comparison) -> tuple[str, ...]:
    """Each ends with a full stop. A comparison that is not fair begins with a warning."""
    return tuple(
        f"{told}."
        for told in (
            *_warning(found),
            *_nothing(found),
            *_main(found),
            *_reaches(found),
            *_forgetting(found),
            *_failures(found),
            *_few_seeds(found),
        )
    )


def _warning(found: Comparison) -> list[str]:
    failed = [f"{check.name} ({check.text})" for check in found.audit if not check.passed]
    if not failed:
        return []
    return [f"Warning: this comparison is not fair; what failed: {'; '.join(failed)}"]


def _nothing(found: Comparison) -> list[str]:
    finished = [arm.name for arm in found.arms if arm.finished]
    if not finished:
        return ["No run finished: there is nothing to compare"]
    if found.reference not in finished:
        return [f"{found.reference} has no finished run: nothing could be compared with it"]
    return []


# --- the main measure -----------------------------------------------------------------------------


def _main(found: Comparison) -> list[str]:
    measure = found.measure(found.main)
    if measure is None:
        return []
    pairs = [c for c in found.comparisons if c.measure == found.main and c.difference is not None]
    way = -1 if measure.higher_is_better is False else 1
    ranked = sorted(pairs, key=lambda c: -way * (c.difference or 0.0))
    shown = [pair for pair in ranked if pair.shown]
    open_ones = [pair for pair in ranked if not pair.shown and pair.p_value is not None]
    untested = [pair for pair in ranked if not pair.shown and pair.p_value is None]
    return [
        *_some(shown, found, measure, "differ from"),
        *_some(open_ones, found, measure, "are not distinguishable from"),
        *_some(untested, found, measure, "were measured once, without a test, against"),
    ]


def _some(
    pairs: Sequence[ArmComparison], found: Comparison, measure: Measure, words: str
) -> list[str]:
    if len(pairs) <= MOST:
        return [_told(pair, found, measure) for pair in pairs]
    first, last = pairs[0], pairs[-1]
    counts = f"{len(pairs)} arms {words} {found.reference} in {_lower(measure.title)}"
    return [
        counts + f", from {first.arm} ({_measured(first, measure)}) to {last.arm} "
        f"({_measured(last, measure)})",
        _told(first, found, measure),
    ]


def _measured(pair: ArmComparison, measure: Measure) -> str:
    assert pair.difference is not None
    return amount(pair.difference, measure.unit, signed=True)


def _told(pair: ArmComparison, found: Comparison, measure: Measure) -> str:
    assert pair.difference is not None
    of = sample(pair.seeds, pair.rows)
    ends = ""
    costs = _costs(pair.arm, found)
    if pair.low is not None and pair.high is not None:
        ends = f"95% {span(pair.low, pair.high, measure.unit)}"
    if pair.p_value is None:
        size = amount(pair.difference, measure.unit, signed=True)
        what = f"{pair.arm} measured {size} of {_lower(measure.title)} against {pair.reference}"
        why = SAME_EVERY_SEED if pair.test == SAME_EVERY_SEED else "no interval"
        return f"{what} ({of}: {why}){costs}"
    if pair.shown:
        if pair.difference < 0 and ends:
            ends = f"95% {span(-pair.high, -pair.low, measure.unit)}"  # type: ignore[operator]
        size = amount(abs(pair.difference), measure.unit)
        what = (
            f"{pair.arm} is {direction(measure, pair.difference)} than {pair.reference} by {size}"
        )
        return f"{what} in {_lower(measure.title)} ({ends}; {of}){costs}"
    if pair.test == SIGN and pair.difference == 0:
        what = f"{pair.arm} and {pair.reference} do not differ at all in {_lower(measure.title)}"
        return f"{what} ({of}){costs}"
    would = (
        "" if pair.detectable is None else f" would show {amount(pair.detectable, measure.unit)}"
    )
    size = amount(pair.difference, measure.unit, signed=True)
    if ends and (pair.low or 0.0) * (pair.high or 0.0) > 0:
        # by itself it would be a difference; among several it is what chance may bring
        what = f"{pair.arm} measured {size} of {_lower(measure.title)} against {pair.reference} "
        what += f"({ends} by itself; {of}); after the correction for several comparisons that is "
        return f"{what}not enough to tell them apart{costs}"
    what = f"{pair.arm} is not distinguishable from {pair.reference} here in "
    what += f"{_lower(measure.title)} (difference {size}"
    return f"{what}{', ' + ends if ends else ''}; {of}{would}){costs}"


def _costs(arm: str, found: Comparison) -> str:
    told = []
    words = ((SECONDS, "takes {} times as long"), (MEMORY, "needs {} times the memory"))
    for measure, text in words:
        cost = found.comparison(measure, arm)
        if cost is None or cost.ratio is None or abs(cost.ratio - 1) < _CLEARLY:
            continue
        if cost.shown or cost.seeds == 1:
            told.append(text.format(times(cost.ratio)))
    return f" and {listed(told)}" if told else ""


def _lower(title: str) -> str:
    """`Validation loss` within a sentence; BLEU and JSON stay as they are."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


# --- how soon -------------------------------------------------------------------------------------


def _reaches(found: Comparison) -> list[str]:
    clear = [reach for reach in found.reaches if _is_clear(reach)]
    never = [reach.arm for reach in found.reaches if reach.seeds and not reach.reached]
    told = [_reach(reach) for reach in clear[:MOST]]
    if never:
        verb = "never reaches" if len(never) == 1 else "never reach"
        names = listed(never) if len(never) <= MOST else f"{len(never)} arms"
        told.append(
            f"{names} {verb} what {found.reference} has after {SHARE:.0%} of its drop in "
            "validation loss"
        )
    return told


def _is_clear(reach: Reach) -> bool:
    """Sooner or later beyond chance. A single seed is told as one where there is no other."""
    if reach.steps_ratio is None or reach.reached < reach.seeds:
        return False
    if reach.steps_low is None or reach.steps_high is None:
        return reach.seeds == 1 and abs(reach.steps_ratio - 1) >= _CLEARLY
    return reach.steps_high < 1 or reach.steps_low > 1


def _reach(reach: Reach) -> str:
    assert reach.steps_ratio is not None
    ratio = times(reach.steps_ratio)
    part = f"in {ratio} of the steps" if reach.steps_ratio <= 1 else f"in {ratio} times the steps"
    ends = ""
    if reach.steps_low is not None and reach.steps_high is not None:
        ends = f", {times(reach.steps_low)} to {times(reach.steps_high)}"
    told = f"{reach.arm} makes {SHARE:.0%} of {reach.reference}'s drop in validation loss {part} "
    told += f"({counted(reach.reached, 'seed')}{ends})"
    return told


# --- what was lost and what failed ----------------------------------------------------------------


def _forgetting(found: Comparison) -> list[str]:
    told = []
    for pair in found.comparisons:
        if pair.measure == RETENTION and pair.shown and (pair.difference or 0.0) < 0:
            assert pair.difference is not None
            lost = amount(-pair.difference, "points")
            told.append(f"{pair.arm} keeps {lost} fewer of the general questions than "
                        f"{pair.reference}")  # fmt: skip
    return told


def _failures(found: Comparison) -> list[str]:
    return [told for arm in found.arms if (told := failure(arm))]


def failure(arm: Arm) -> str:
    """What went wrong with an arm, in one sentence; empty where nothing did."""
    failed = [run for run in arm.runs if not run.succeeded]
    if not arm.runs:
        return f"{arm.name} was not run: {arm.stopped}" if arm.stopped else ""
    if not failed:
        return ""
    first = failed[0]
    why = first.why or first.outcome.replace("_", " ")
    if not arm.finished:
        return f"{arm.name} has no finished run ({counted(len(failed), 'seed')}): {why}"
    seeds = listed([str(run.seed) for run in failed])
    return f"{arm.name} failed in seed {seeds}: {why}"


def _few_seeds(found: Comparison) -> list[str]:
    if len(found.seeds) == 1:
        return ["One seed: other seeds may change the order of the arms"]
    if len(found.seeds) == 2:
        return ["Two seeds tell little of how runs scatter: three or more give narrower intervals"]
    return []

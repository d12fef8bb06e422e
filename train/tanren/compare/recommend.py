"""Which arm to take: the cheapest of those that are not shown to be worse than the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tanren.compare.comparing import compare_two
from tanren.compare.data import Arm, ArmComparison, Comparison, Recommendation
from tanren.compare.measures import MEMORY, RETENTION, SECONDS, Column
from tanren.compare.seeds import SIGNIFICANCE
from tanren.compare.sentences import failure
from tanren.compare.wording import amount, counted, level, listed, sample, times
from tanren.evaluate.statistics import holm

NEARLY_EQUAL = 0.05
"""Costs within this share of the least count as equal: they scatter as much by chance."""


def recommend(
    found: Comparison, columns: Sequence[Column], configs: Mapping[str, str]
) -> Recommendation | None:
    """`configs`: each arm's whole YAML. The main quality is tested against the best arm (not only
    against the reference), with Holm's correction; of those that stay, the one with the least
    memory wins, then the least time, then the best mean. Where nothing can be tested (one seed and
    no rows) the best value wins. None where no run finished.
    """
    named = {column.name: column for column in columns}
    main = named.get(found.main)
    arms = [arm.name for arm in found.arms if arm.finished and arm.name in configs]
    if main is None or not (means := _means(main, arms)):
        return None
    sign = 1 if main.measure.higher_is_better is False else -1
    best = min(means, key=lambda arm: sign * means[arm])
    against = _against(main, [arm for arm in means if arm != best], best, found.seeds)
    as_good = [best, *(c.arm for c in against if c.p_value is not None and not c.shown)]
    chosen = _cheapest(as_good, named, {arm: sign * mean for arm, mean in means.items()})
    reasons = [
        _quality(main, chosen, best, means),
        *_as_good(main, against, chosen, best),
        *_cost(named, chosen, as_good),
        *_weakness(found, against),
        *_cautions(found, chosen),
    ]
    return Recommendation(chosen, configs[chosen], tuple(f"{reason}." for reason in reasons))


def _means(column: Column, arms: Sequence[str]) -> dict[str, float]:
    means = {arm: column.estimate(arm).mean for arm in arms}
    return {arm: mean for arm, mean in means.items() if mean is not None}


def _against(
    main: Column, others: Sequence[str], best: str, seeds: Sequence[int]
) -> list[ArmComparison]:
    found = [compare_two(main, arm, best, seeds) for arm in others]
    corrected = holm([comparison.p_value for comparison in found])
    return [
        replace(comparison, p_adjusted=p, shown=p is not None and p < SIGNIFICANCE)
        for comparison, p in zip(found, corrected, strict=True)
    ]


def _cheapest(
    arms: Sequence[str], named: Mapping[str, Column], badness: Mapping[str, float]
) -> str:
    left = list(arms)
    for cost in (MEMORY, SECONDS):
        means = _means(named[cost], left) if cost in named else {}
        if len(means) == len(left):  # a cost that one of them lacks decides nothing
            least = min(means.values())
            left = [arm for arm in left if means[arm] <= least * (1 + NEARLY_EQUAL)]
    return min(left, key=lambda arm: badness[arm])


# --- reasons --------------------------------------------------------------------------------------


def _quality(main: Column, chosen: str, best: str, means: Mapping[str, float]) -> str:
    title, unit = main.measure.title, main.measure.unit
    seeds = sum(value is not None for value in main.values[chosen])
    told = f"{title}: {level(means[chosen], unit)} (mean over {counted(seeds, 'seed')})"
    if chosen == best:
        return f"{told}, the best of {counted(len(means), 'arm')}"
    return f"{told}; the best mean is {best}'s {level(means[best], unit)}"


def _as_good(main: Column, against: Sequence[ArmComparison], chosen: str, best: str) -> list[str]:
    told = []
    own = next((c for c in against if c.arm == chosen), None)
    if own is not None:
        would = ""
        if own.detectable is not None:
            would = f" ({sample(own.seeds, own.rows)} would show "
            would += f"{amount(own.detectable, main.measure.unit)})"
        told.append(f"It is not shown to be worse than {best}{would}")
    worse = [c.arm for c in against if c.shown]
    if worse:
        told.append(f"Shown to be worse than {best}: {listed(worse)}")
    return told


def _cost(named: Mapping[str, Column], chosen: str, as_good: Sequence[str]) -> list[str]:
    """What the choice costs against the others that are as good."""
    others = [arm for arm in as_good if arm != chosen]
    told = []
    for cost, words in ((MEMORY, "memory"), (SECONDS, "training time")):
        means = _means(named[cost], [chosen, *others]) if cost in named else {}
        rest = {arm: means[arm] for arm in others if arm in means}
        if chosen in means and rest:
            ratios = [f"{times(means[chosen] / of)} of {arm}'s" for arm, of in rest.items() if of]
            told.append(f"Its {words} is {listed(ratios)}")
    return told


def _weakness(found: Comparison, against: Sequence[ArmComparison]) -> list[str]:
    if len(found.seeds) == 1 and against and all(c.p_value is None for c in against):
        told = "One seed and no rows to pair: nothing could be tested and the best value was taken"
        return [f"{told}; another seed may change the order"]
    if len(found.seeds) == 1:
        return ["One seed: the tests speak of these very runs; another seed may change the order"]
    return []


def _cautions(found: Comparison, chosen: str) -> list[str]:
    """What is against the choice, and which arms failed or forgot."""
    told = []
    failed = [check for check in found.audit if not check.passed]
    if failed:
        names = listed([check.name for check in failed])
        told.append(f"The comparison is not fair ({names}): take this with care")
    forgot = _forgot(found)
    if forgot:
        told.append(f"Shown to forget more than {found.reference}: {listed(forgot)}")
    told += [text for arm in found.arms if (text := failure(arm))]
    arm: Arm = found.arm(chosen)
    refusing = [served.server for served in arm.served if not served.unmerged]
    if refusing:
        told.append(f"{listed(refusing)} can serve it merged only")
    return told


def _forgot(found: Comparison) -> list[str]:
    return [
        pair.arm
        for pair in found.comparisons
        if pair.measure == RETENTION and pair.shown and (pair.difference or 0.0) < 0
    ]

"""Which arm to take: the best one, or a measurably cheaper one that nothing speaks against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tanren.compare.comparing import ASKED, compare_two
from tanren.compare.data import Arm, ArmComparison, Comparison, Recommendation
from tanren.compare.measures import MEMORY, RETENTION, SECONDS, VALIDATION_LOSS, Column
from tanren.compare.seeds import SIGNIFICANCE
from tanren.compare.sentences import failure
from tanren.compare.wording import amount, counted, level, listed, p_words, sample, times

TIMES = "times comparable"
"""Of `Comparison.machine`: False where runs shared a processor, so that time decides nothing."""
_BY_LOSS = "Between arms that {} does not tell apart, the validation loss decides"
NEARLY_EQUAL = 0.05
"""Costs within this share of each other count as equal: they scatter as much by chance."""


def recommend(
    found: Comparison, columns: Sequence[Column], configs: Mapping[str, str]
) -> Recommendation | None:
    """`configs`: each arm's whole YAML.

    The arm with the best mean of the main measure, unless nothing speaks against another one that
    is measurably cheaper in memory, then in time, or as cheap with a lower validation loss, which
    scatters less: each is tested against the best arm (not
    only against the reference) in the main measure, the validation loss and what it keeps of
    general questions, without a correction, for here it is the false all-clear that costs. Where
    nothing can be tested (one seed and no rows) the best value wins. None where no run finished.
    """
    named = {column.name: column for column in columns}
    main = named.get(found.main)
    arms = [arm.name for arm in found.arms if arm.finished and arm.name in configs]
    if main is None or not (means := _means(main, arms)):
        return None
    apart = [arm for arm in means if not main.alike(arm, found.reference)]
    means = {arm: mean for arm, mean in means.items() if arm not in apart} or means
    sign = 1 if main.measure.higher_is_better is False else -1
    best = min(means, key=lambda arm: sign * means[arm])
    against = _against(named, main, [arm for arm in means if arm != best], best, found.seeds)
    as_good = [best, *(one.arm for one in against if one.is_tested and not one.worse)]
    badness = {arm: sign * mean for arm, mean in means.items()}
    by_loss = main.name != VALIDATION_LOSS and len(as_good) > 1
    losses = _means(named[VALIDATION_LOSS], as_good) if VALIDATION_LOSS in named else {}
    if by_loss and len(losses) == len(as_good):
        badness = losses
    costs = (MEMORY, SECONDS) if found.machine.get(TIMES, True) else (MEMORY,)
    chosen = _cheapest(as_good, named, badness, found.seeds, costs)
    reasons = [
        _quality(main, chosen, best, means),
        *_as_good(main, against, chosen, best),
        *([_BY_LOSS.format(main.measure.title)] if badness is losses else []),
        *_cost(named, chosen, as_good),
        *_weakness(found, against),
        *_left_aside(main, apart),
        *_cautions(found, chosen),
    ]
    return Recommendation(chosen, configs[chosen], tuple(f"{reason}." for reason in reasons))


@dataclass(frozen=True)
class _Against:
    """An arm against the best one: by the main measure, and where it is worse than that."""

    arm: str
    main: ArmComparison
    worse: tuple[tuple[Column, ArmComparison], ...]

    @property
    def is_tested(self) -> bool:
        return self.main.p_value is not None


def _against(
    named: Mapping[str, Column],
    main: Column,
    others: Sequence[str],
    best: str,
    seeds: Sequence[int],
) -> list[_Against]:
    asked = [name for name in ASKED if name in named and name != main.name]
    looked_at = [main, *(named[name] for name in asked)]
    found = []
    for arm in others:
        pairs = [
            (column, compare_two(column, arm, best, seeds))
            for column in looked_at
            if _means(column, [arm, best]).keys() == {arm, best}
        ]
        worse = tuple((column, pair) for column, pair in pairs if _is_worse(column, pair))
        found.append(_Against(arm, pairs[0][1], worse))
    return found


def _is_worse(column: Column, pair: ArmComparison) -> bool:
    if pair.difference is None or pair.p_value is None or pair.p_value >= SIGNIFICANCE:
        return False
    return pair.difference > 0 if column.measure.higher_is_better is False else pair.difference < 0


def _means(column: Column, arms: Sequence[str]) -> dict[str, float]:
    means = {arm: column.estimate(arm).mean for arm in arms}
    return {arm: mean for arm, mean in means.items() if mean is not None}


def _cheapest(
    arms: Sequence[str],
    named: Mapping[str, Column],
    badness: Mapping[str, float],
    seeds: Sequence[int],
    costs: Sequence[str],
) -> str:
    left = list(arms)
    for cost in costs:
        column = named.get(cost)
        means = _means(column, left) if column is not None else {}
        if column is None or len(means) < len(left):
            continue  # a cost that one of them lacks decides nothing
        best = min(left, key=lambda arm: badness[arm])
        cheaper = [arm for arm in left if _is_cheaper(column, arm, best, seeds)]
        if cheaper:
            least = min(means[arm] for arm in cheaper)
            left = [arm for arm in cheaper if means[arm] <= least * (1 + NEARLY_EQUAL)]
        else:
            left = [arm for arm in left if not _is_cheaper(column, best, arm, seeds)]
    return min(left, key=lambda arm: badness[arm])


def _is_cheaper(column: Column, arm: str, than: str, seeds: Sequence[int]) -> bool:
    """By more than chance, and by more than a little. A single seed is taken at its word."""
    if arm == than:
        return False
    pair = compare_two(column, arm, than, seeds)
    if pair.ratio is None or pair.ratio > 1 - NEARLY_EQUAL:
        return False
    return pair.shown or pair.seeds == 1


# --- reasons --------------------------------------------------------------------------------------


def _quality(main: Column, chosen: str, best: str, means: Mapping[str, float]) -> str:
    title, unit = main.measure.title, main.measure.unit
    seeds = sum(value is not None for value in main.values[chosen])
    told = f"{title}: {level(means[chosen], unit)} (mean over {counted(seeds, 'seed')})"
    if chosen == best:
        return f"{told}, the best of {counted(len(means), 'arm')}"
    return f"{told}; the best mean is {best}'s {level(means[best], unit)}"


def _as_good(main: Column, against: Sequence[_Against], chosen: str, best: str) -> list[str]:
    told = []
    own = next((one.main for one in against if one.arm == chosen), None)
    if own is not None:
        would = ""
        if own.detectable is not None:
            would = f" ({sample(own.seeds, own.rows)} would show "
            would += f"{amount(own.detectable, main.measure.unit)})"
        told.append(f"It is not shown to be worse than {best}{would}")
    worse = [f"{one.arm} in {_places(one)}" for one in against if one.worse]
    if worse:
        told.append(f"Worse than {best}, each test by itself: {listed(worse)}")
    return told


def _places(one: _Against) -> str:
    """`ROUGE-L (p = 0.02)`."""
    return listed(
        [
            f"{column.measure.title} ({p_words(pair.p_value, corrected=False)})"
            for column, pair in one.worse
            if pair.p_value is not None
        ]
    )


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


def _left_aside(main: Column, apart: Sequence[str]) -> list[str]:
    title = main.measure.title
    return [f"Not comparable by {title}, so left aside: {listed(apart)}"] if apart else []


def _weakness(found: Comparison, against: Sequence[_Against]) -> list[str]:
    if len(found.seeds) == 1 and against and not any(one.is_tested for one in against):
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

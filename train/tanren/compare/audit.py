"""Was the comparison fair? Asked of what the runs recorded, not of what they were told to do.

Every check says what it found. Values are compared among arms whose settings are the same in what
may change them: an arm with fewer rows by its settings has another hash, and that is no fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tanren.compare.audit_settings import rates_check, settings_check
from tanren.compare.data import Arm, Check, TrainedRun
from tanren.compare.scores import model_name
from tanren.evaluate.report.data import Evaluation

ROWS = "same training rows"
ORDER = "same order of rows"
BUDGET = "same steps and tokens"
TEMPLATE = "same chat template"
BASE = "same base weights"
ENVIRONMENT = "same machine and versions"
VALIDATION = "same validation rows"
EVALUATION = "same evaluation"
SEEDS = "every seed"
FAILED = "no failed seeds"
SETTINGS = "only the named settings differ"
RATES = "learning rates as set"
EFFECT = "every setting has an effect"
EDGE = "best rate inside the search"
CHANCES = "every rate searched or none"
PARALLEL = "runs side by side"

_FEWEST_LOSSES = 3
"""So many equal losses are no coincidence."""


@dataclass(frozen=True)
class Audited:
    """What the audit looks at. `edges`: by arm, the end of the rate search that its best rate lies
    at. `parallel`: processes side by side.
    """

    arms: tuple[Arm, ...]
    reference: str
    seeds: tuple[int, ...]
    shared: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]
    edges: Mapping[str, str]
    parallel: int

    @property
    def runs(self) -> tuple[tuple[Arm, TrainedRun], ...]:
        return tuple((arm, run) for arm in self.arms for run in arm.finished)


def audit(found: Audited) -> tuple[Check, ...]:
    return (
        _rows(found),
        _order(found),
        _budget(found),
        _template(found),
        _base(found),
        _environment(found),
        _validation(found),
        _evaluation(found),
        _every_seed(found),
        _failed(found),
        settings_check(SETTINGS, found.runs, found.shared),
        rates_check(RATES, found.runs, found.shared),
        _effect(found),
        _edge(found),
        _equal_chances(found),
        _side_by_side(found),
    )


# --- equal facts ----------------------------------------------------------------------------------


def _rows(found: Audited) -> Check:
    facts = ("train_sha256", "train_rows", "train_tokens", "trained_tokens", "cut_rows")
    in_tokens = ("model", "data", "training.train_on")
    whole = _equal(found, ROWS, facts[:2], "data.train", "data.rows")
    counted = _equal(
        found, ROWS, facts[2:], *in_tokens, caused_by=("train_sha256", "template", "base")
    )
    return _both(whole, counted)


def _order(found: Audited) -> Check:
    steps = ("training.num_epochs", "training.max_steps", "training.batch_size")
    return _equal(
        found, ORDER, ("order_sha256",), "data", *steps, "training.data_seed",
        caused_by=("train_sha256", "steps"),
    )  # fmt: skip


def _budget(found: Audited) -> Check:
    named = ("data", "training.num_epochs", "training.max_steps", "training.batch_size")
    stopping = ("evaluation.early_stopping_patience",)
    steps = _equal(found, BUDGET, ("steps",), *named, *stopping)
    causes = ("train_sha256", "order_sha256", "template", "base", "steps")
    tokens = _equal(found, BUDGET, ("tokens_seen",), *named, *stopping, "model", caused_by=causes)
    return _both(steps, tokens)


def _template(found: Audited) -> Check:
    return _equal(found, TEMPLATE, ("template",), "model", "data.thinking", "data.date")


def _base(found: Audited) -> Check:
    return _equal(found, BASE, ("base",), "model.name", "model.revision")


def _environment(found: Audited) -> Check:
    return _equal(found, ENVIRONMENT, ("versions", "device", "threads", "world_size"))


def _validation(found: Audited) -> Check:
    return _equal(found, VALIDATION, ("validation_sha256",), "data.validation")


def _equal(
    found: Audited, name: str, facts: Sequence[str], *named: str, caused_by: Sequence[str] = ()
) -> Check:
    """Whether the facts are equal among the runs of a seed, of arms that set the settings `named`
    alike (a prefix stands for all below it). `caused_by`: facts that have a check of their own and
    would make these differ too; runs are compared with those that share them.
    """
    odd: dict[str, str] = {}
    known = False
    for group in _groups(found, named, caused_by):
        for fact in facts:
            values = {arm: run.facts[fact] for arm, run in group if fact in run.facts}
            known |= bool(values)
            odd.update(_odd(values, fact, found.reference, odd))
    if odd:
        return Check(name, False, "; ".join(odd.values()), tuple(odd))
    told = ", ".join(map(_words, facts))
    return Check(name, True, f"{told}: equal" if known else f"{told}: not recorded")


Member = tuple[str, TrainedRun]


def _groups(
    found: Audited, named: Sequence[str], caused_by: Sequence[str]
) -> Iterator[list[Member]]:
    groups: dict[str, list[Member]] = {}
    for arm, run in found.runs:
        own = {key: value for key, value in arm.settings.items() if _under(key, named)}
        causes = [run.facts.get(fact) for fact in caused_by]
        key = repr((run.seed, sorted(own.items(), key=lambda item: item[0]), causes))
        groups.setdefault(key, []).append((arm.name, run))
    return iter(groups.values())


def _under(key: str, named: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in named)


def _odd(
    values: Mapping[str, Any], fact: str, reference: str, known: Mapping[str, str]
) -> dict[str, str]:
    """Arms with another value than most have; where as many have either, the reference's is the
    usual one.
    """
    if len({repr(value) for value in values.values()}) < 2:
        return {}
    counts = Counter(repr(value) for value in values.values())
    own = repr(values.get(reference))
    usual = max(counts, key=lambda value: (counts[value], value == own))
    example = next(value for value in values.values() if repr(value) == usual)
    return {
        arm: f"{arm} has another {_words(fact)} ({_short(value)}; the others {_short(example)})"
        for arm, value in values.items()
        if repr(value) != usual and arm not in known
    }


def _words(fact: str) -> str:
    return fact.replace("_sha256", "_hash").replace("_", " ")


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    looks_hashed = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if looks_hashed else text if len(text) <= 120 else text[:117] + "..."


def _both(one: Check, other: Check) -> Check:
    if one.passed and other.passed:
        return Check(one.name, True, f"{one.text}; {other.text}")
    failed = [check for check in (one, other) if not check.passed]
    arms = dict.fromkeys(arm for check in failed for arm in check.arms)
    return Check(one.name, False, "; ".join(check.text for check in failed), tuple(arms))


# --- evaluations ----------------------------------------------------------------------------------


def _evaluation(found: Audited) -> Check:
    if not found.evaluations:
        return Check(EVALUATION, True, "no answers were evaluated")
    runs = [run for _, run in found.runs]
    missing = [
        arm
        for arm in dict.fromkeys(run.arm for run in runs)
        if any(not _is_evaluated(found, run) for run in runs if run.arm == arm)
    ]
    odd = {arm: f"{arm} has finished runs that were not evaluated" for arm in missing}
    parts: Mapping[str, Callable[[Evaluation], Any]] = {
        "evaluation file": lambda one: one.data.sha256,
        "number of evaluated rows": lambda one: one.data.rows,
        "decoding": lambda one: sorted(one.decoding.items()),
    }
    for words, of in parts.items():
        values = {arm: of(one) for arm, one in found.evaluations.items()}
        odd.update(_odd(values, words, found.reference, odd))
    if odd:
        return Check(EVALUATION, False, "; ".join(odd.values()), tuple(odd))
    first = next(iter(found.evaluations.values()))
    return Check(EVALUATION, True, f"the same {first.data.rows:,} rows and decoding for all")


def _is_evaluated(found: Audited, run: TrainedRun) -> bool:
    one = found.evaluations.get(run.arm)
    return one is not None and bool(one.answers.get(model_name(run.arm, run.seed)))


# --- seeds and failures ---------------------------------------------------------------------------


def _every_seed(found: Audited) -> Check:
    """An arm that halving ended has no runs and is not compared."""
    odd = {}
    for arm in found.arms:
        if arm.stopped and not arm.runs:
            continue
        ran = {run.seed for run in arm.runs}
        missing = [seed for seed in found.seeds if seed not in ran]
        twice = len(arm.runs) - len(ran)
        if missing:
            odd[arm.name] = f"{arm.name} has no run of seed {', '.join(map(str, missing))}"
        elif twice:
            odd[arm.name] = f"{arm.name} has {twice} runs more than seeds"
    if odd:
        return Check(SEEDS, False, "; ".join(odd.values()), tuple(odd))
    return Check(SEEDS, True, f"every arm ran all seeds ({', '.join(map(str, found.seeds))})")


def _failed(found: Audited) -> Check:
    """An arm of which no run finished is not compared, so it spoils no mean; one that lacks some
    seeds is judged by the others.
    """
    odd, gone = {}, []
    for arm in found.arms:
        failed = [run for run in arm.runs if not run.succeeded]
        if failed and arm.finished:
            seeds = ", ".join(str(run.seed) for run in failed)
            odd[arm.name] = f"{arm.name} failed in seed {seeds} and is judged by the others"
        elif failed:
            gone.append(arm.name)
    if odd:
        return Check(FAILED, False, "; ".join(odd.values()), tuple(odd))
    left_out = f"; not compared, as no run finished: {', '.join(gone)}" if gone else ""
    return Check(FAILED, True, f"all runs of the compared arms finished{left_out}")


# --- effects, search, times -----------------------------------------------------------------------


def _effect(found: Audited) -> Check:
    """Two arms with the same losses, digit for digit, are one arm."""
    first: dict[Any, str] = {}
    odd: dict[str, str] = {}
    for arm, run in found.runs:
        logged = [(one.step, one.loss) for one in run.steps]
        losses = (*logged, *((one.step, one.loss) for one in run.checks))
        if len(losses) < _FEWEST_LOSSES:
            continue
        twin = first.setdefault((run.seed, losses), arm.name)
        if twin != arm.name and arm.name not in odd:
            odd[arm.name] = f"{arm.name} has the very losses of {twin}: what it sets has no effect"
    if odd:
        return Check(EFFECT, False, "; ".join(odd.values()), tuple(odd))
    return Check(EFFECT, True, "no two arms have the same losses")


def _edge(found: Audited) -> Check:
    ends = {"low": "lowest", "high": "highest"}
    odd = {
        arm: f"the best rate of {arm} is the {ends.get(edge, edge)} that was tried"
        for arm, edge in found.edges.items()
    }
    if odd:
        text = "; ".join(odd.values()) + ": a better one may lie beyond"
        return Check(EDGE, False, text, tuple(odd))
    return Check(EDGE, True, _searched(found))


def _searched(found: Audited) -> str:
    searched = sum(arm.rate_source == "searched" for arm in found.arms)
    return f"rates searched for {searched} of {len(found.arms)} arms"


def _equal_chances(found: Audited) -> Check:
    """A rate that was searched beats one that was not, whatever the method."""
    finished = [arm for arm in found.arms if arm.finished]
    given = [arm.name for arm in finished if arm.rate_source != "searched"]
    if given and len(given) < len(finished):
        text = f"{_searched(found)}; no search for {', '.join(given)}"
        return Check(CHANCES, False, text, tuple(given))
    return Check(CHANCES, True, _searched(found))


def _side_by_side(found: Audited) -> Check:
    """Told and no fault: it touches times alone."""
    if found.parallel <= 1:
        return Check(PARALLEL, True, "one run at a time: times can be compared")
    text = f"{found.parallel} runs at a time: times are rough where they shared a processor"
    return Check(PARALLEL, True, text)

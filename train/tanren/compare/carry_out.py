"""From a prepared comparison to its report. What was finished before is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tanren.compare.analyse import ArmInput, analyse
from tanren.compare.arms import FIXED, RATE, differences
from tanren.compare.conduct import Conduct, Trained
from tanren.compare.data import Comparison
from tanren.compare.evaluations import Evaluations, evaluated
from tanren.compare.folder import ComparisonFolder
from tanren.compare.plan import Plan, PlannedArm, without_limits
from tanren.compare.prepare import Prepared
from tanren.compare.recommend import TIMES
from tanren.compare.report import write_report
from tanren.environment import versions
from tanren.errors import Interrupted
from tanren.jobs import Pool, find_slots
from tanren.rundir import storage_errors, write_text
from tanren.watch import interrupted_by_sigterm

Tell = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Compared:
    folder: ComparisonFolder
    comparison: Comparison

    @property
    def finished(self) -> bool:
        """Whether every arm has a finished run, but for those that halving ended."""
        wanted = [arm for arm in self.comparison.arms if not arm.stopped]
        return bool(wanted) and all(arm.finished for arm in wanted)


def compare(prepared: Prepared, tell: Tell) -> Compared:
    """Train, evaluate, analyse, write. Goes on where an earlier start of the same comparison was.

    Raises Interrupted after Ctrl-C: runs that were at work have saved a checkpoint.
    """
    try:
        return _compare(prepared, tell)
    except KeyboardInterrupt:
        words = "stopped; runs at work have saved a checkpoint: go on with the same command"
        raise Interrupted(words) from None


def _compare(prepared: Prepared, tell: Tell) -> Compared:
    began = time.monotonic()
    plan, folder = prepared.plan, prepared.folder
    with folder.held(), storage_errors(folder.path), interrupted_by_sigterm():
        write_text(folder.settings_file, _settings(prepared))
        with Pool(find_slots(plan.config.parallel)) as pool:
            conduct = Conduct(plan, folder, pool, tell)
            trained = conduct.train()
            answers = _evaluated(plan, trained, folder, pool, tell)
        tell("stage", name="report", text="writing the report")
        notes = [*plan.notes, *_notes(conduct, folder, answers)]
        shared, apart = _differences(plan)
        comparison = analyse(
            [_input(one, plan, apart[one.arm.name]) for one in trained],
            title=_title(plan),
            reference=plan.reference,
            seeds=plan.config.seeds,
            shared=shared,
            main=plan.config.main,
            evaluations=answers.by_arm,
            machine=_machine(pool),
            search=_search(plan, trained),
            created=folder.created,
            seconds=folder.spent(time.monotonic() - began),
            notes=tuple(notes),
            parallel=len(pool.slots),
        )
        write_report(comparison, folder.path)
    return Compared(folder, comparison)


def _evaluated(
    plan: Plan, trained: tuple[Trained, ...], folder: ComparisonFolder, pool: Pool, tell: Tell
) -> Evaluations:
    if plan.config.test is None:
        return Evaluations({}, {})
    return evaluated(trained, plan.reference, plan.config.test, folder, pool, tell)


def _input(trained: Trained, plan: Plan, apart: Mapping[str, Any]) -> ArmInput:
    arm = trained.arm
    rate = trained.rate.value if trained.rate.value is not None else arm.auto_rate
    config = without_limits(arm, rate, plan.config.seeds[0])
    rows = {"data.rows": arm.variant.rows} if arm.variant.rows is not None else {}
    return ArmInput(
        name=arm.name,
        settings={**apart, **rows},
        config=config.to_yaml(),
        learning_rate=trained.rate.value,
        rate_source=trained.rate.source,
        runs=trained.runs,
        tried=trained.rate.tried,
        served=arm.served,
        stopped=trained.stopped,
        rate_edge=trained.rate.edge,
    )


def _differences(plan: Plan) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What all arms share, and what each has otherwise, as it is run. Seeds and rates are told of
    each run: what stands in the settings is not what was run.
    """
    shared, apart = differences({arm.name: arm.base_config for arm in plan.arms})
    for values in (shared, *apart.values()):
        for key in (*FIXED, RATE):
            values.pop(key, None)
    return shared, apart


def _search(plan: Plan, trained: tuple[Trained, ...]) -> str:
    """What the search was allowed, in one sentence."""
    if not plan.searched:
        return ""
    rules = plan.config.search
    share = "" if rules.steps_share == 1 else f" of {rules.steps_share:.0%} of the steps"
    runs = sum(len(one.rate.tried) for one in trained)
    return (
        f"Each arm's learning rate was searched first: at most {rules.trials} rates{share}, begun "
        f"at its starting rate and {rules.factor:g} times less and more ({runs} runs in all), "
        f"with the seed {plan.config.search_seed}, which no compared run has; the lowest "
        "validation loss decides."
    )


def _notes(conduct: Conduct, folder: ComparisonFolder, answers: Evaluations) -> list[str]:
    notes = [f"{arm}: no evaluation: {why}" for arm, why in answers.failed.items()]
    notes += dict.fromkeys(
        f"test: {note}" for found in answers.by_arm.values() for note in found.notes
    )
    if conduct.plan.config.halving is not None:
        seed = conduct.plan.config.seeds[0]
        notes.append(
            f"halving judged the arms on seed {seed}, which is among those compared: the arms that "
            "stayed look a little better than they are"
        )
    left = folder.left_over(conduct.used)
    if left:
        notes.append(
            f"{len(left)} runs of earlier settings lie in {folder.runs} and are not part of this"
        )
    return notes


def _machine(pool: Pool) -> dict[str, Any]:
    shared = sum(slot.kind == "cpu" for slot in pool.slots) > 1
    return {
        TIMES: not shared,
        "processes side by side": len(pool.slots),
        "slots": ", ".join(slot.name for slot in pool.slots),
        "versions": {name: version for name, version in versions().items() if version},
    }


def _title(plan: Plan) -> str:
    first: PlannedArm = plan.arms[0]
    model = Path(first.variant.config.model.name).name
    data = Path(first.variant.config.data.train).name
    return f"{len(plan.arms)} arms of {model} on {data}"


def _settings(prepared: Prepared) -> str:
    """The whole comparison as YAML: it alone starts it again."""
    config = prepared.plan.config.model_copy(update={"base": dict(prepared.shared.values)})
    values = config.model_dump(mode="json")
    return str(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))

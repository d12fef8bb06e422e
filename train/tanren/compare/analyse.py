"""From the arms' runs and evaluations to findings. Nothing is asked again, nothing is by chance:
the same inputs give the same comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tanren.compare.audit import Audited, audit
from tanren.compare.comparing import compare_arms
from tanren.compare.data import Arm, Comparison, Reach, Served, TrainedRun, Tried
from tanren.compare.fronts import fronts
from tanren.compare.measures import VALIDATION_LOSS, Column, Table, columns
from tanren.compare.reach import reach
from tanren.compare.recommend import recommend
from tanren.compare.sentences import sentences
from tanren.evaluate.report.data import Evaluation


@dataclass(frozen=True)
class ArmInput:
    """What is known of an arm. `settings`: only what it sets otherwise than all, by dotted path.
    `config`: a whole run's YAML at its best rate, empty where there is none. `rate_edge`: the end
    of the search that the best rate lies at.
    """

    name: str
    settings: Mapping[str, Any]
    config: str = ""
    learning_rate: float | None = None
    rate_source: Literal["searched", "given", "auto"] = "auto"
    runs: tuple[TrainedRun, ...] = ()
    tried: tuple[Tried, ...] = ()
    served: tuple[Served, ...] = ()
    stopped: str = ""
    rate_edge: Literal["low", "high"] | None = None

    def as_arm(self) -> Arm:
        """Without measures."""
        return Arm(
            name=self.name,
            settings=self.settings,
            learning_rate=self.learning_rate,
            rate_source=self.rate_source,
            runs=self.runs,
            tried=self.tried,
            served=self.served,
            stopped=self.stopped,
        )


@dataclass(frozen=True)
class _Measured:
    """All that is computed; `notes` say what was chosen or left out."""

    columns: tuple[Column, ...]
    main: str
    base: Mapping[str, float | None]
    notes: tuple[str, ...] = field(default=())


def analyse(
    arms: Sequence[ArmInput],
    *,
    title: str,
    reference: str,
    seeds: Sequence[int],
    shared: Mapping[str, Any],
    main: str | None = None,
    evaluations: Mapping[str, Evaluation],
    machine: Mapping[str, Any],
    search: str = "",
    created: str,
    seconds: float | None = None,
    notes: Sequence[str] = (),
    parallel: int = 1,
) -> Comparison:
    """`evaluations` by arm; their models are called `<arm> seed <seed>`. `main` is the measure that
    decides; None: the evaluations' own main metric, or the validation loss where nothing was
    evaluated. `parallel`: runs side by side.
    """
    plain = tuple(arm.as_arm() for arm in arms)
    table = Table(plain, reference, tuple(seeds), _in_order(arms, evaluations))
    found = _measured(table, main)
    finished = [arm.name for arm in plain if arm.finished]
    comparison = Comparison(
        title=title,
        created=created,
        reference=reference,
        main=found.main,
        seeds=table.seeds,
        measures=tuple(column.measure for column in found.columns),
        arms=tuple(replace(arm, measures=_estimates(arm, found.columns)) for arm in plain),
        shared=shared,
        base=found.base,
        comparisons=compare_arms(found.columns, finished, reference, table.seeds, found.main)
        if reference in finished
        else (),
        reaches=_reaches(table, found.columns, finished),
        audit=audit(
            Audited(
                arms=plain,
                reference=reference,
                seeds=table.seeds,
                shared=shared,
                evaluations=table.evaluations,
                edges={arm.name: arm.rate_edge for arm in arms if arm.rate_edge is not None},
                parallel=parallel,
            )
        ),
        fronts=fronts(found.columns, _comparable(found, reference, finished), found.main),
        search=search,
        machine=machine,
        seconds=seconds,
        notes=(*notes, *found.notes),
    )
    comparison = replace(comparison, sentences=sentences(comparison))
    configs = {arm.name: arm.config for arm in arms if arm.config}
    return replace(comparison, recommendation=recommend(comparison, found.columns, configs))


def _in_order(
    arms: Sequence[ArmInput], evaluations: Mapping[str, Evaluation]
) -> dict[str, Evaluation]:
    """In the order of the arms, whatever order they came in."""
    return {arm.name: evaluations[arm.name] for arm in arms if arm.name in evaluations}


def _measured(table: Table, main: str | None) -> _Measured:
    own = next((one.main for one in table.evaluations.values() if one.main), None)
    wanted = main or own or VALIDATION_LOSS
    found = columns(table, wanted)
    names = [column.name for column in found]
    notes = []
    if found and wanted not in names:
        instead = VALIDATION_LOSS if VALIDATION_LOSS in names else names[0]
        notes.append(f"{wanted} was not measured: {instead} decides instead")
        wanted = instead
        found = columns(table, wanted)
    notes += _unpaired(found)
    base = {column.name: column.base for column in found if column.base is not None}
    return _Measured(found, wanted, base, tuple(notes))


def _unpaired(found: Sequence[Column]) -> list[str]:
    """Test metrics without rows, such as benchmarks: only seeds can be paired."""
    names = [
        column.name
        for column in found
        if column.base is not None and column.scores is None and column.is_compared
    ]
    return (
        [f"compared over seeds alone, as rows are not known: {', '.join(names)}"] if names else []
    )


def _estimates(arm: Arm, found: Sequence[Column]) -> dict[str, Any]:
    return {column.name: column.estimate(arm.name) for column in found}


def _comparable(found: _Measured, reference: str, finished: Sequence[str]) -> list[str]:
    """Arms whose main measure counts what the reference's does."""
    main = next((column for column in found.columns if column.name == found.main), None)
    return [arm for arm in finished if main is None or main.alike(arm, reference)]


def _reaches(table: Table, found: Sequence[Column], finished: Sequence[str]) -> tuple[Reach, ...]:
    """Where the reference has validation losses at all, for arms whose losses count the same
    tokens.
    """
    loss = next((column for column in found if column.name == VALIDATION_LOSS), None)
    if loss is None:
        return ()
    runs = table.runs
    if not any(run.checks for run in runs.get(table.reference, {}).values()):
        return ()
    others = [
        arm for arm in finished if arm != table.reference and loss.alike(arm, table.reference)
    ]
    return tuple(reach(arm, table.reference, runs, table.seeds) for arm in others)

"""`tanren eval`: models x rows -> answers -> numbers -> a folder with everything.

A killed evaluation goes on where it was: answers are on disk as soon as they are complete.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tanren.environment import versions
from tanren.errors import Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.benchmarks import benchmark_metrics
from tanren.evaluate.folder import EvaluationFolder, opened_folder
from tanren.evaluate.measuring import compared, measured, scored
from tanren.evaluate.named_models import NamedModel
from tanren.evaluate.opinions import judged
from tanren.evaluate.people import write_sheets
from tanren.evaluate.report.data import DataFacts, EvaluatedModel, Evaluation
from tanren.evaluate.report.report import write_report
from tanren.evaluate.request import Request
from tanren.evaluate.retention import RetentionResult, gate, retention
from tanren.evaluate.settings import EvaluateConfig
from tanren.evaluate.training_facts import training_of
from tanren.evaluation.asking import Asking
from tanren.evaluation.weights import Tell, local_judge
from tanren.rundir import write_text


@dataclass(frozen=True, slots=True)
class Evaluated:
    """`gate` says what the gate found wrong, by model; empty where it passed or there is none."""

    folder: EvaluationFolder
    evaluation: Evaluation
    gate: Mapping[str, Sequence[Fault]]

    @property
    def passed(self) -> bool:
        return not self.gate

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single rows, which lie in the folder."""
        document = json.loads(replace(self.evaluation, answers={}).to_json())
        document.pop("answers")
        faults = {name: [f.as_dict() for f in found] for name, found in self.gate.items()}
        return {
            "folder": str(self.folder.path),
            **document,
            "gate": {"passed": self.passed, "faults": faults},
        }


def evaluate(
    config: EvaluateConfig, *, out: Path | None = None, resume: bool = False, tell: Tell
) -> Evaluated:
    """Ask, measure, compare, write. Raises UserError for what is wrong with the request before any
    model is loaded. `resume` goes on with `out`, or with the newest evaluation that was begun with
    the same request.
    """
    began = time.monotonic()
    tell("stage", name="read", text="reading data and models")
    request = Request.read(config)
    name = Path(str(config.data)).stem
    folder = opened_folder(out, request.identity(), resume=resume, name=name)
    asking = Asking(request, folder, tell)
    asking.ask_all()
    tell("stage", name="measure", text="measuring")
    evaluation = replace(_measured(asking), seconds=time.monotonic() - began)
    tell("stage", name="write", text="writing the report")
    write_report(evaluation, folder.path)
    _keep_in_run(request, evaluation)
    return Evaluated(folder, evaluation, _gate(config, evaluation))


def _measured(asking: Asking) -> Evaluation:
    """Metrics, comparisons, retention and opinions, from the answers."""
    request, folder = asking.request, asking.folder
    statistics = request.config.statistics
    against = request.reference.name if request.reference else None
    answers = {model.name: asking.answers[model.name] for model in request.models}
    metrics, kept, silent = measured(request.plan, answers, statistics)
    rows = {name: scored(found, kept) for name, found in answers.items()}
    for name, found in rows.items():
        folder.write_rows(name, found)
    comparisons, apart = compared(kept, rows, against, statistics) if against else ((), [])
    said = judged(
        request.judges, rows, folder, statistics,
        reference=against, open_local=local_judge, tell=asking.tell,
    )  # fmt: skip
    sheets = write_sheets(rows, folder, reference=against) if request.config.human else []
    return Evaluation(
        title=_title(request),
        created=folder.created,
        task=request.plan.task,
        task_reason=request.plan.reason,
        data=DataFacts(
            file=request.questions.file,
            sha256=request.questions.sha256,
            rows=len(request.asked),
            file_rows=request.questions.file_rows,
        ),
        models=tuple(_model(model, asking) for model in request.models),
        metrics=(*metrics, *benchmark_metrics(asking.benchmarks, list(answers))),
        answers=rows,
        reference=against,
        main=next((m.name for m in metrics if m.name == request.plan.main), None),
        comparisons=comparisons,
        retention=_retention(asking),
        opinions=said.opinions,
        agreements=said.agreements,
        decoding=request.config.decoding.model_dump(mode="json"),
        versions={name: version for name, version in versions().items() if version},
        notes=(
            *request.questions.notes, *request.plan.notes, *_choice_notes(request),
            *asking.notes, *_row_notes(request, rows), *silent, *apart, *said.notes, *sheets,
        ),
    )  # fmt: skip


def _title(request: Request) -> str:
    names = [model.name for model in request.models if model is not request.reference]
    return f"{', '.join(names or [request.models[0].name])} on {Path(request.questions.file).name}"


def _model(model: NamedModel, asking: Asking) -> EvaluatedModel:
    return EvaluatedModel(
        name=model.name,
        kind=model.kind,
        where=model.target,
        training=training_of(model.run) if model.run is not None else None,
        seconds=asking.seconds.get(model.name),
    )


def _choice_notes(request: Request) -> list[str]:
    """What was decided without being asked for, and what left the machine."""
    notes = []
    for model in request.models:
        if model.prompted_as is not None:
            notes.append(f"{model.name} is prompted as {model.prompted_as.name}, tuned from it")
        if model.endpoint is not None and model.endpoint.leaves_machine:
            notes.append(f"the rows were sent to {model.endpoint.host} for {model.name}")
    if request.reference is not None and request.config.reference is None:
        notes.append(f"compared with {request.reference.name}, as no --reference was named")
    return notes


def _row_notes(request: Request, answers: Mapping[str, Sequence[Answered]]) -> list[str]:
    """What rows lack, by model."""
    notes = []
    for model in request.models:
        rows = answers[model.name]
        failed = [row for row in rows if row.error is not None]
        if failed:
            first = f"the first: row {failed[0].row}, {failed[0].error}"
            notes.append(f"{model.name}: {len(failed):,} rows without an answer ({first})")
        thought = sum(bool(row.reasoning) for row in rows)
        if thought:
            notes.append(f"{model.name}: {thought:,} answers follow thoughts, left unmeasured")
        if model.is_local and request.config.likelihood:
            notes += _unmeasured(model, "reference", [row for row in rows if row.loss is None])
        missing = [row for row in rows if row.options and not row.option_losses]
        if model.is_local:
            notes += _unmeasured(model, "option", missing)
    return notes


def _unmeasured(model: NamedModel, what: str, rows: Sequence[Answered]) -> list[str]:
    if not rows:
        return []
    first = f"the first: row {rows[0].row}"
    why = "longer than its context, or refused by its template"
    return [f"{model.name}: {len(rows):,} rows without the loss of a {what} ({first}; {why})"]


def _retention(asking: Asking) -> dict[str, RetentionResult]:
    general, reference = asking.request.general, asking.request.reference
    if general is None or reference is None:
        return {}
    before = asking.general[reference.name]
    found = {}
    for model in asking.request.models:
        if model is not reference:
            result = retention(before, asking.general[model.name], general)
            found[model.name] = replace(result, drift_nats=asking.drifts.get(model.name))
    return found


# --- what follows from it -------------------------------------------------------------------------


def _gate(config: EvaluateConfig, evaluation: Evaluation) -> dict[str, list[Fault]]:
    limit = config.retention.gate_points
    if limit is None:
        return {}
    found = {name: gate(result, limit) for name, result in evaluation.retention.items()}
    return {name: faults for name, faults in found.items() if faults}


def _keep_in_run(request: Request, evaluation: Evaluation) -> None:
    """A run that was evaluated alone, or beside its own base, keeps the outcome without rows."""
    tuned = [model for model in request.models if not model.is_base]
    if len(tuned) == 1 and (run := tuned[0].run) is not None:
        write_text(run.evaluation_file, replace(evaluation, answers={}).to_json())


__all__ = ["Evaluated", "evaluate"]

"""What a run's own files say of how the model was tuned, for the report."""

from __future__ import annotations

from typing import Any

from tanren.evaluate.report.data import Training
from tanren.rundir import RunDirectory, read_json


def training_of(run: RunDirectory) -> Training:
    config = run.config()
    result: dict[str, Any] = read_json(run.result_file) if run.result_file.is_file() else {}
    validation = [
        float(event["loss"])
        for event in run.events()
        if event.get("event") == "evaluation" and isinstance(event.get("loss"), int | float)
    ]
    method = config.method.model_dump()
    rate = config.training.learning_rate
    groups = result.get("optimizer_groups") or []
    rates = [g["learning_rate"] for g in groups if isinstance(g.get("learning_rate"), int | float)]
    return Training(
        method=config.method.name,
        rows=result.get("rows"),
        epochs=result.get("epochs"),
        steps=result.get("steps"),
        learning_rate=rate if isinstance(rate, float) else min(rates, default=None),
        rank=method.get("rank"),
        train_loss=(result.get("loss") or {}).get("last"),
        validation_loss=validation[-1] if validation else None,
        best_validation_loss=min(validation, default=None),
    )

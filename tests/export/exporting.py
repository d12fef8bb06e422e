"""Exports as the tests ask for them: a run as if trained, and a listener that can do mischief."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assembled import assemble_model
from export.adapted import nudge

from tanren.artefact import save_artefact
from tanren.export.exports import Exported, Request, export
from tanren.export.tuned import open_tuned
from tanren.model import set_tokens
from tanren.rundir import RunDirectory


@dataclass
class Heard:
    """What an export tells; `act` may do something to the world when a stage begins."""

    act: Callable[[str], None] = lambda name: None
    stages: list[str] = field(default_factory=list)

    def __call__(self, event: str, /, **fields: Any) -> None:
        if event == "stage":
            self.stages.append(fields["name"])
            self.act(fields["name"])


def as_if_trained(config: Any, folder: Path, *, amount: float = 0.05) -> RunDirectory:
    """A run directory with a result whose every trained number was moved by `amount`."""
    parts = assemble_model(config)
    run = RunDirectory.create(folder, config)
    set_tokens(parts.base, parts.gate.tokenizer, parts.gate.renderer.facts.stop_ids)
    nudge(parts.model, amount)
    save_artefact(run, parts.model, parts.gate)
    return run


def exported(run: RunDirectory | Path, heard: Heard | None = None, **request: Any) -> Exported:
    onto = request.get("onto", "trained")
    tuned = open_tuned(str(run.path if isinstance(run, RunDirectory) else run), onto=onto)
    return export(tuned, Request(**request), heard or Heard())

"""What a run directory says of itself, read into plain data. Finished or not: a run that failed is
a result too, and says why (T25).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tanren.compare.data import Checked, Group, Outcome, Step, TrainedRun
from tanren.config import flattened, read_yaml
from tanren.rundir import RunDirectory, read_json

Event = Mapping[str, Any]

_OUTCOMES: Mapping[str, Outcome] = {
    "OutOfMemoryError": "out_of_memory",
    "MemoryError": "out_of_memory",
    "DivergenceError": "diverged",
    "ConfigError": "refused",
    "DataError": "refused",
    "ModelError": "refused",
    "RunError": "refused",
}
"""By the class of the error; everything else is `failed`."""
_VERSIONS = ("tanren", "torch", "transformers", "peft", "trl", "bitsandbytes")
_LONGEST_WHY = 300


def read_run(run: RunDirectory, arm: str, seed: int) -> TrainedRun:
    """RunError or ConfigError where a file of it is there and cannot be read; what is not there is
    None.
    """
    found = _Found.of(run)
    outcome, why = _ending(run, found)
    result, last = found.result, found.last_step
    tokens = result.get("tokens", last.get("tokens"))
    return TrainedRun(
        arm=arm,
        seed=seed,
        path=str(run.path),
        outcome=outcome,
        why=why,
        settings=flat(read_yaml(run.config_file)),
        facts=_facts(found, tokens),
        learning_rate=result.get("learning_rate", found.plan.get("learning_rate")),
        groups=_groups(result.get("optimizer_groups") or found.gate.get("groups") or ()),
        steps=tuple(_step(event) for event in found.steps),
        checks=tuple(_checked(event, found.steps) for event in found.checks),
        num_steps=result.get("steps", last.get("step")),
        tokens=tokens,
        trained_parameters=result.get("trained_parameters", found.covered("trained_parameters")),
        all_parameters=result.get("all_parameters", found.covered("all_parameters")),
        adapter_bytes=_weights_bytes(run) if outcome == "succeeded" else None,
        peak_memory_bytes=result.get("peak_memory_bytes", found.most("memory_bytes")),
        peak_host_bytes=result.get("peak_host_bytes"),
        tokens_per_second=result.get("tokens_per_second"),
        mfu=result.get("mfu"),
        train_seconds=result.get("train_seconds", last.get("train_seconds")),
        all_seconds=(result.get("seconds") or {}).get("all"),
        energy_joules=result.get("energy_joules"),
    )


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted path; lists stay whole, empty parts are left out."""
    return {key: value for key, value in flattened(values).items() if value != {}}


@dataclass(frozen=True)
class _Found:
    """The files of a run. `steps` and `checks` are those of the history that counts: a run that was
    killed and resumed has done some steps twice, and the later ones lead to its weights.
    """

    events: list[dict[str, Any]]
    result: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    gate: Mapping[str, Any]
    steps: tuple[Event, ...]
    checks: tuple[Event, ...]

    @classmethod
    def of(cls, run: RunDirectory) -> _Found:
        events = run.events()
        gates = [event["summary"] for event in events if event.get("event") == "gate"]
        steps, checks = _history(events)
        return cls(
            events=events,
            result=_json(run, "result"),
            data=_json(run, "data"),
            environment=_json(run, "environment"),
            gate=gates[-1] if gates else {},
            steps=steps,
            checks=checks,
        )

    @property
    def plan(self) -> Mapping[str, Any]:
        return self.gate.get("plan") or {}

    @property
    def last_step(self) -> Event:
        return self.steps[-1] if self.steps else {}

    def covered(self, name: str) -> int | None:
        return (self.gate.get("coverage") or {}).get(name)

    def most(self, name: str) -> int | None:
        return max((step[name] for step in self.steps if step.get(name) is not None), default=None)


def _json(run: RunDirectory, name: str) -> Mapping[str, Any]:
    files = {"result": run.result_file, "data": run.data_file, "environment": run.environment_file}
    return read_json(files[name]) if files[name].exists() else {}


def _history(events: Iterable[Event]) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """Steps and evaluations by step. A start goes back to its checkpoint: what was done beyond it
    counts no more.
    """
    kinds: dict[str, dict[int, Event]] = {"step": {}, "evaluation": {}}
    for event in events:
        kind = event.get("event")
        if kind == "started":
            begin = event.get("resumed_from") or 0
            for done in kinds.values():
                for step in [step for step in done if step > begin]:
                    del done[step]
        elif kind in kinds:
            kinds[kind][int(event["step"])] = event
    steps, checks = (tuple(done[step] for step in sorted(done)) for done in kinds.values())
    return steps, checks


def _step(event: Event) -> Step:
    return Step(event["step"], event["tokens"], event["loss"], event.get("train_seconds"))


def _checked(event: Event, steps: Iterable[Event]) -> Checked:
    """Runs of older versions told no tokens: those of the last step logged until then."""
    tokens = event.get("tokens")
    if tokens is None:
        before = (step["tokens"] for step in steps if step["step"] <= event["step"])
        tokens = max(before, default=0)
    return Checked(
        step=event["step"],
        tokens=tokens,
        loss=event["loss"],
        token_accuracy=event.get("token_accuracy"),
        seconds=event.get("train_seconds"),
        metrics=dict(event.get("metrics") or {}),
    )


def _groups(groups: Iterable[Mapping[str, Any]]) -> tuple[Group, ...]:
    return tuple(
        Group(
            name=group["name"],
            learning_rate=group["learning_rate"],
            weight_decay=group["weight_decay"],
            tensors=group["tensors"],
            elements=group["elements"],
        )
        for group in groups
    )


def _weights_bytes(run: RunDirectory) -> int | None:
    """Of the adapter, or of the whole model after full fine-tuning."""
    adapter = run.adapter / "adapter_model.safetensors"
    files = [adapter] if adapter.is_file() else sorted(run.model.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) if files else None


# --- how it ended ---------------------------------------------------------------------------------


def _ending(run: RunDirectory, found: _Found) -> tuple[Outcome, str]:
    """The outcome with one line on what went wrong."""
    state = run.state()
    if state == "succeeded":
        return "succeeded", ""
    last = found.events[-1] if found.events else {}
    if last.get("event") == "refused" and not found.steps:
        return "refused", _line(last)
    if state == "failed":
        failed = next(e for e in reversed(found.events) if e.get("event") == "failed")
        outcome = _OUTCOMES.get(str(failed.get("kind")), "failed")
        return ("failed" if outcome == "refused" and found.steps else outcome), _line(failed)
    if state == "interrupted":
        stopped = next(e for e in reversed(found.events) if e.get("event") == "interrupted")
        return "killed", _one_line(f"not finished: {stopped.get('message', 'stopped')}")
    if state == "running":
        return "killed", f"not finished: process {run.owner()} is at work on it"
    if state == "created":
        return "killed", "not finished: it never began"
    step = found.last_step.get("step")
    when = f"after step {step}" if step is not None else "before the first step"
    return "killed", f"its process vanished {when}: killed, or out of the machine's memory"


def _line(event: Event) -> str:
    """`training diverged: step 12: a loss of nan`."""
    told = [str(event.get("error") or "failed")]
    faults = event.get("faults") or ()
    for fault in faults[:1]:
        told.append(f"{fault['where']}: {fault['found']}")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return _one_line(": ".join(told)) + more


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_WHY else line[: _LONGEST_WHY - 3] + "..."


# --- what must be equal for a fair comparison -----------------------------------------------------


def _facts(found: _Found, tokens: int | None) -> dict[str, Any]:
    """Names without a value are left out: not recorded is not the same as nothing."""
    train = found.data.get("train") or {}
    validation = found.data.get("validation") or {}
    ledger = train.get("ledger") or {}
    told = validation.get("ledger") or {}
    whole, cut = ledger.get("trained_whole"), ledger.get("trained_cut")
    versions = found.environment.get("versions") or {}
    facts = {
        "train_sha256": train.get("sha256"),
        "train_rows": None if whole is None or cut is None else whole + cut,
        "train_tokens": ledger.get("tokens"),
        "trained_tokens": ledger.get("trained_tokens"),
        "cut_rows": cut,
        "validation_sha256": validation.get("sha256"),
        "validation_tokens": told.get("trained_tokens"),
        "order_sha256": found.result.get("order_sha256"),
        "template": _sha256(ledger["template"]) if ledger.get("template") else None,
        "base": found.data.get("base") or (found.gate.get("model") or {}).get("fingerprint"),
        "max_length": ledger.get("max_length"),
        "steps": found.result.get("steps"),
        "stopped_early": found.result.get("stopped_early"),
        "tokens_seen": tokens,
        "world_size": found.environment.get("world_size"),
        "device": found.environment.get("device"),
        "threads": found.environment.get("threads"),
        "versions": ", ".join(f"{n} {versions[n]}" for n in _VERSIONS if versions.get(n)) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _sha256(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()

"""Arms, runs and evaluations as they could have been, with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evaluate.planted import answered, evaluated

from tanren.compare.analyse import ArmInput, analyse
from tanren.compare.data import Checked, Comparison, Group, Step, TrainedRun
from tanren.evaluate.report.data import Evaluation

SHARED = {
    "model.name": "tiny",
    "data.train": "train.jsonl",
    "data.validation": "validation.jsonl",
    "training.batch_size": 8,
    "training.weight_decay": 0.0,
    "training.optimizer": "auto",
    "training.max_steps": 40,
    "method.rank": 16,
}
LORA: Mapping[str, Any] = {"method.name": "lora", "method.lr_ratio": 1.0}
LORA_PLUS: Mapping[str, Any] = {"method.name": "lora_plus", "method.lr_ratio": 16.0}
DORA: Mapping[str, Any] = {"method.name": "dora", "method.lr_ratio": 1.0}
FACTS = {
    "train_sha256": "a" * 64,
    "train_rows": 100,
    "train_tokens": 5000,
    "trained_tokens": 900,
    "cut_rows": 0,
    "validation_sha256": "b" * 64,
    "validation_tokens": 300,
    "order_sha256": "c" * 64,
    "template": "d" * 64,
    "base": "e" * 64,
    "steps": 40,
    "tokens_seen": 40_000,
    "device": "cpu",
    "threads": 2,
    "versions": "tanren 0.1.0, torch 2.13.0",
    "world_size": 1,
}
RATE = 2e-3


def run(
    arm: str,
    seed: int,
    losses: Sequence[float],
    settings: Mapping[str, Any] = LORA,
    *,
    rate: float = RATE,
    ratio: float | None = None,
    more_settings: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    seconds: float = 40.0,
    **changes: Any,
) -> TrainedRun:
    """A finished run with an evaluation every 10 steps. `ratio`: B's rate over A's as it was;
    None: as `settings` say.
    """
    real = settings.get("method.lr_ratio", 1.0) if ratio is None else ratio
    last = 10 * len(losses)
    made = TrainedRun(
        arm=arm,
        seed=seed,
        path=f"runs/{arm}-{seed}",
        outcome="succeeded",
        settings={**SHARED, "training.learning_rate": rate, "seed": seed, **settings}
        | {"training.optimizer": "adamw"}
        | dict(more_settings or {}),
        facts={**FACTS, "order_sha256": f"{seed:064x}", **(facts or {})},
        learning_rate=rate,
        groups=(
            Group("A", rate, 0.0, 4, 1000),
            Group("B", rate * real, 0.0, 4, 1000),
        ),
        steps=tuple(
            Step(10 * i, 10_000 * i, loss + 0.1, seconds * i / len(losses))
            for i, loss in enumerate(losses, start=1)
        ),
        checks=tuple(
            Checked(10 * i, 10_000 * i, loss, seconds=seconds * i / len(losses))
            for i, loss in enumerate(losses, start=1)
        ),
        num_steps=last,
        tokens=1000 * last,
        trained_parameters=2000,
        all_parameters=100_000,
        adapter_bytes=8000,
        peak_memory_bytes=1_000_000,
        peak_host_bytes=2_000_000 + seed,
        tokens_per_second=1000.0 + seed,
        train_seconds=seconds,
        all_seconds=seconds + 5,
    )
    return replace(made, **changes)


def failed(arm: str, seed: int, outcome: Any = "out_of_memory", why: str = "out of memory") -> Any:
    return TrainedRun(arm=arm, seed=seed, path=f"runs/{arm}-{seed}", outcome=outcome, why=why)


CURVES = {1: (2.0, 1.5, 1.2, 1.0), 2: (2.1, 1.6, 1.3, 1.1), 3: (1.9, 1.45, 1.15, 0.95)}


def shifted(by: float, seed: int) -> tuple[float, ...]:
    """The curve of a seed, lower or higher, by a little more in later seeds."""
    return tuple(loss + by * (1 + 0.05 * seed) for loss in CURVES[seed])


def arm(
    name: str,
    settings: Mapping[str, Any] = LORA,
    *,
    by: float = 0.0,
    seeds: Sequence[int] = (1, 2, 3),
    arm_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> ArmInput:
    """All of whose runs are `by` above the curves."""
    runs = tuple(run(name, seed, shifted(by, seed), settings, **changes) for seed in seeds)
    made = ArmInput(
        name=name,
        settings=settings,
        config=f"# {name}\n",
        learning_rate=RATE,
        rate_source="searched",
        runs=runs,
    )
    return replace(made, **(arm_changes or {}))


def compared(
    *arms: ArmInput,
    evaluations: Mapping[str, Evaluation] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    **changes: Any,
) -> Comparison:
    """The first arm is the reference."""
    options = {
        "title": "methods",
        "reference": arms[0].name,
        "shared": SHARED,
        "machine": {"device": "cpu"},
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }
    return analyse(arms, seeds=seeds, evaluations=evaluations or {}, **options)


def evaluation(
    name: str,
    right: Mapping[int, Sequence[int]],
    rows: int,
    metrics: Sequence[str] = ("exact_match",),
    *,
    base_right: Sequence[int] = (),
    **facts: Any,
) -> Evaluation:
    """`right`: by seed, the rows that were answered right; wrong ones answer `no`."""
    references = [f"answer {row % 3}" for row in range(1, rows + 1)]

    def answers(numbers: Sequence[int]) -> Any:
        given = [
            text if row in set(numbers) else "no" for row, text in enumerate(references, start=1)
        ]
        return answered(references, given)

    models = {"base": answers(base_right)}
    models |= {f"{name} seed {seed}": answers(numbers) for seed, numbers in right.items()}
    return evaluated(models, metrics, **facts)

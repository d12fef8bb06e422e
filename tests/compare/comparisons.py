"""Comparisons as they could have come out, for tests of the report and of what reads results.

`methods()`: four methods, three seeds, a rate search. `sweep()`: twenty-four arms. `troubled()`:
runs that failed, a stopped arm, an audit that failed. All numbers come from a seeded generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import mean, stdev

from tanren.compare.data import (
    Arm,
    ArmComparison,
    Check,
    Checked,
    Comparison,
    Estimate,
    Front,
    Group,
    Measure,
    Reach,
    Recommendation,
    Served,
    Step,
    TrainedRun,
    Tried,
)
from tanren.config import validate

_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t of 95% by degrees of freedom."""

LOSS = Measure("validation_loss", "validation loss", "nats", False, "quality")
SCORE = Measure("exact_match", "exact match", "share", True, "quality")
KEPT = Measure("retention", "general questions kept", "points", True, "quality")
TIME = Measure("train_seconds", "training time", "seconds", False, "cost")
SPEED = Measure("tokens_per_second", "speed", "tokens/s", True, "cost")
MEMORY = Measure("peak_memory_bytes", "peak memory", "bytes", False, "cost")
SIZE = Measure("adapter_bytes", "adapter on disk", "bytes", False, "cost")
TRAINED = Measure("trained_parameters", "trained parameters", "parameters", None, "fact")
MEASURES = (SCORE, LOSS, KEPT, TIME, SPEED, MEMORY, SIZE, TRAINED)

AUDIT = (
    Check("same rows", True, "all arms trained on the same 1,000 rows (sha256 3fa1…)"),
    Check("same order", True, "within a seed every arm saw the rows in the same order"),
    Check("same budget", True, "200 optimizer steps and 412,160 tokens in every run"),
    Check("rates as set", True, "every optimizer group had the rate that its settings say"),
)
CONFIG = validate(
    {"model": {"name": "data/tiny-chat"}, "data": {"train": "data/taro.jsonl"}}, source="tests"
).to_yaml()
SHARED = {
    "model.name": "data/tiny-chat",
    "data.train": "data/kids_why.jsonl",
    "method.rank": 16,
    "method.alpha": 32.0,
    "method.target_modules": "all-linear",
    "training.batch_size": 8,
    "training.max_steps": 200,
    "training.schedule": "cosine",
    "training.max_grad_norm": None,
}


def estimate(values: Sequence[float | None]) -> Estimate:
    there = [value for value in values if value is not None]
    if not there:
        return Estimate(None, None, None, tuple(values))
    middle = mean(there)
    if len(there) < 2:
        return Estimate(middle, None, None, tuple(values))
    half = _T[len(there) - 1] * stdev(there) / math.sqrt(len(there))
    return Estimate(middle, middle - half, middle + half, tuple(values))


def trained(
    arm: str, seed: int, *, best: float = 1.2, speed: float = 1.0, seconds: float = 240.0
) -> TrainedRun:
    """A run whose loss falls from 3.1 to `best`, `speed` times as soon."""
    random = Random(f"{arm} {seed}")

    def loss(step: float) -> float:
        return best + (3.1 - best) * math.exp(-speed * step / 40)

    each = seconds / 200
    steps = tuple(
        Step(step, 2060 * step, loss(step) - 0.05 + random.gauss(0, 0.12), each * step)
        for step in range(1, 201)
    )
    checks = tuple(
        Checked(step, 2060 * step, loss(step) + random.gauss(0, 0.008), 0.6, each * step)
        for step in range(20, 201, 20)
    )
    return TrainedRun(
        arm, seed, f"comparisons/demo/runs/{arm}-seed-{seed}", "succeeded", steps=steps,
        checks=checks, learning_rate=1e-3, groups=(Group("A", 1e-3, 0.0, 14, 90_112),),
        num_steps=200, tokens=412_160, trained_parameters=180_224, all_seconds=seconds * 1.2,
        train_seconds=seconds,
    )  # fmt: skip


def failed(arm: str, seed: int, outcome: str = "out_of_memory", why: str = "") -> TrainedRun:
    why = why or "OutOfMemoryError: one row of 2,048 tokens does not fit into 11.6 GiB"
    path = f"comparisons/demo/runs/{arm}-seed-{seed}"
    return TrainedRun(arm, seed, path, outcome, why)  # type: ignore[arg-type]


def tried(centre: float, best: float, *, above: float = math.inf) -> tuple[Tried, ...]:
    """A bowl around `centre`; rates beyond `above` diverged."""
    found = []
    for rate in (3e-4, 1e-3, 3e-3, 1e-2, 5.2e-3):
        loss = best + 0.22 * math.log(rate / centre) ** 2 / math.log(10)
        there = rate <= above
        found.append(Tried(rate, loss if there else None, "succeeded" if there else "diverged",
                           f"comparisons/demo/runs/search-{rate:g}", 200))  # fmt: skip
    return tuple(found)


def arm(
    name: str,
    settings: Mapping[str, object],
    *,
    best: float = 1.2,
    speed: float = 1.0,
    score: float = 0.5,
    seconds: float = 240.0,
    memory: float = 9.0,
    rate: float = 1e-3,
    seeds: Sequence[int] = (1, 2, 3),
) -> Arm:
    """`memory` in GiB."""
    random = Random(name)
    noise = [random.gauss(0, 0.01) for _ in seeds]
    runs = tuple(
        trained(name, seed, best=best + noise[at], speed=speed, seconds=seconds + 40 * noise[at])
        for at, seed in enumerate(seeds)
    )
    values: dict[Measure, list[float | None]] = {
        LOSS: [run.best_loss for run in runs],
        SCORE: [score - 0.9 * shift for shift in noise],
        KEPT: [95.5 + 60 * shift for shift in noise],
        TIME: [run.train_seconds for run in runs],
        SPEED: [412_160 / (run.train_seconds or 1) for run in runs],
        MEMORY: [memory * 2**30 + 2e6 * at for at in range(len(seeds))],
        SIZE: [737_912.0 for _ in seeds],
        TRAINED: [180_224.0 for _ in seeds],
    }
    measures = {measure.name: estimate(of) for measure, of in values.items()}
    served = (Served("vLLM", "dora" not in name, "vLLM has no magnitude vector" * ("dora" in name)),
              Served("llama.cpp", True), Served("Ollama", False, "reads GGUF only"))  # fmt: skip
    return Arm(name, settings, rate, "searched", runs, tried(rate, best), measures, served)


def against(
    arms: Sequence[Arm], reference: Arm, measures: Sequence[Measure]
) -> list[ArmComparison]:
    """Paired differences by seed."""
    found = []
    for measure in measures:
        for other in arms:
            if other.name == reference.name:
                continue
            pairs = zip(
                other.measures[measure.name].values,
                reference.measures[measure.name].values,
                strict=True,
            )
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            gap = estimate([a - b for a, b in both])
            shown = gap.low is not None and gap.high is not None and gap.low * gap.high > 0
            p = None if gap.low is None else 0.0021 if shown else 0.4
            ratios = [a / b for a, b in both] if measure.kind == "cost" else []
            middle = mean(ratios) if ratios else None
            found.append(ArmComparison(
                measure.name, other.name, reference.name, gap.mean, gap.low, gap.high, p,
                None if p is None else min(1.0, 3 * p), shown, len(both),
                200 if measure is SCORE else None,
                "two-way random effects" if measure is SCORE else "paired t over seeds",
                f"{other.name} against {reference.name}", middle,
                None if middle is None else middle * 0.97,
                None if middle is None else middle * 1.03,
                0.026 if measure is SCORE else 0.03,
            ))  # fmt: skip
    return found


def comparison(arms: Sequence[Arm], *, title: str = "Four methods on kids_why") -> Comparison:
    """Of arms that all have every measure; the first one is the reference."""
    reference = arms[0]
    reaches = tuple(
        Reach(each.name, reference.name, 1.243, 3, 3, ratio, ratio * 0.9, ratio * 1.12, ratio * 1.2,
              ratio * 1.1, ratio * 1.35, 190 * ratio)
        for at, each in enumerate(arms)
        for ratio in [1.0 if at == 0 else 1.54 - 0.23 * (at % 6)]
    )  # fmt: skip
    cheapest = min(arms, key=lambda each: each.measures[MEMORY.name].mean or 0).name
    quickest = min(arms, key=lambda each: each.measures[TIME.name].mean or 0).name
    best = max(arms, key=lambda each: each.measures[SCORE.name].mean or 0).name
    return Comparison(
        title=title,
        created="2026-11-22T10:15:30+00:00",
        reference=reference.name,
        main=SCORE.name,
        seeds=(1, 2, 3),
        measures=MEASURES,
        arms=tuple(arms),
        shared=SHARED,
        base={LOSS.name: 3.412, SCORE.name: 0.213, KEPT.name: 100.0},
        comparisons=tuple(against(arms, reference, (SCORE, LOSS, KEPT, TIME, MEMORY))),
        reaches=reaches,
        audit=AUDIT,
        fronts=(
            Front(SCORE.name, MEMORY.name, tuple(dict.fromkeys((cheapest, best)))),
            Front(SCORE.name, TIME.name, tuple(dict.fromkeys((quickest, best)))),
        ),
        sentences=(
            f"{arms[-1].name} reaches {reference.name}'s loss in 0.62 of the steps (3 seeds, "
            "0.55 to 0.70).",
            "dora is not distinguishable from lora here (difference −0.3 points, 95% −1.9 to 1.3; "
            "3 seeds x 200 rows would show 2.6) and takes 1.4 times as long.",
        ),
        recommendation=Recommendation(
            best, CONFIG, (f"{best} is best in exact match.", "No cheaper arm is as good.")
        ),
        search="5 learning rates an arm between 3e-4 and 1e-2, 200 steps each, on seed 0.",
        machine={
            "device": "NVIDIA RTX 4090",
            "processes side by side": 1,
            "versions": {"torch": "2.13.0", "peft": "0.21.2", "transformers": "5.23.1"},
        },
        seconds=8_040.0,
    )


def methods() -> Comparison:
    return comparison(
        [
            arm("lora", {"method.name": "lora"}, score=0.512),
            arm("qlora", {"method.name": "qlora"}, best=1.24, score=0.498, seconds=330, memory=4.6),
            arm("dora", {"method.name": "dora"}, best=1.195, score=0.51, seconds=345, memory=10.2,
                rate=3e-3),
            arm("lora_plus", {"method.name": "lora_plus", "method.lr_ratio": 16.0}, best=1.12,
                speed=1.6, score=0.561, seconds=243, memory=9.01),
        ]
    )  # fmt: skip


def sweep() -> Comparison:
    """Twenty-four arms, more than can have a colour of their own."""
    arms = []
    for at, rank in enumerate((4, 8, 16, 32, 64, 128)):
        for place, alpha in enumerate((8, 16, 32, 64)):
            gain = 0.03 * at - 0.004 * at**2 + 0.01 * place - 0.004 * place**2
            arms.append(
                arm(
                    f"lora rank={rank} alpha={alpha}",
                    {"method.rank": rank, "method.alpha": float(alpha)},
                    best=1.3 - 2 * gain,
                    score=0.46 + gain,
                    seconds=230 + 9 * at,
                    memory=8 + 0.4 * 1.6**at,
                )
            )
    return comparison(arms, title="Rank and alpha")


def troubled() -> Comparison:
    """One seed of qlora died, dora never ran, prodigy diverged; and other rows were trained on."""
    good = methods()
    lora, qlora, dora, plus = good.arms
    lost = {name: estimate((*found.values[:2], None)) for name, found in qlora.measures.items()}
    qlora = replace(qlora, runs=(*qlora.runs[:2], failed("qlora", 3)), measures=lost)
    none = {name: estimate((None, None, None)) for name in dora.measures}
    dora = replace(dora, runs=(), tried=tried(1e-3, 1.2, above=0.0), measures=none,
                   learning_rate=None, stopped="every rate of the search failed")  # fmt: skip
    wild = trained("wild", 1, best=1.4)
    worse = tuple(replace(c, loss=1.5 + 0.06 * c.step) for c in wild.checks[:6])
    why = "DivergenceError: the loss of step 121 is not finite"
    wild = replace(wild, outcome="diverged", why=why, checks=worse, steps=wild.steps[:120])
    diverged = Arm("wild", {"training.learning_rate": 0.5}, 0.5, "given", (wild,), measures=none)
    bad = Check("same rows", False, "qlora trained on other rows: sha256 9c04…", ("qlora",))
    kept = tuple(c for c in good.comparisons if c.arm != "dora")
    return replace(
        good,
        arms=(lora, qlora, dora, plus, diverged),
        comparisons=kept,
        reaches=tuple(
            replace(r, reached=0, steps_ratio=None, steps_low=None, steps_high=None)
            if r.arm == "qlora"
            else r
            for r in good.reaches
            if r.arm != "dora"
        ),
        audit=(bad, *good.audit[1:], Check("all seeds", False, "qlora lacks seed 3", ("qlora",))),
        sentences=("This comparison is not fair: see the audit.", *good.sentences[:1]),
    )


def empty() -> Comparison:
    """Nothing finished, nothing was measured, nothing recorded."""
    arms = (
        Arm("lora", {}, None, "auto", (failed("lora", 1),)),
        Arm("dora", {"method.name": "dora"}, None, "auto", stopped="out of time"),
    )
    return Comparison("All failed", "2026-11-22T10:15:30+00:00", "lora", LOSS.name, (1,), (), arms)


def single() -> Comparison:
    """One arm, one seed, no search, no evaluation."""
    run = trained("lora", 7)
    measures = {LOSS.name: estimate((run.best_loss,)), TIME.name: estimate((run.train_seconds,))}
    lora = Arm("lora", {}, 1e-3, "auto", (run,), measures=measures)
    return Comparison(
        "One arm", "2026-11-22T10:15:30+00:00", "lora", LOSS.name, (7,), (LOSS, TIME), (lora,),
        audit=AUDIT[:1], sentences=("Only one arm: nothing to compare.",),
    )  # fmt: skip

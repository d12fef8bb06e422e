"""Sections that train: the four methods end to end, memory against the estimate, running out of
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench.inputs import chat_lengths, chat_rows, write_rows

from gpu_checks.estimates import method_facts, workload
from gpu_checks.lab import Lab, Row, Skipped, fresh, methods
from gpu_checks.steps import Clock, Work, checkpoint_layers, make_work, our_trainer

GIB = 2**30
ESTIMATE_RANGE = (0.85, 1.05)
"""Measured peak divided by the estimate: below, memory is wasted; above, a run dies."""


def four_methods(lab: Lab) -> Iterator[Row]:
    """Each method through the whole pipeline: 20 steps, falling loss, the saved adapter proved."""
    from tanren import pipeline
    from tanren.rundir import RunDirectory

    steps = lab.pick(20, 6)
    folder = lab.model("qwen3-0.6b")
    lengths = chat_lengths(8 * steps, mean=lab.pick(300, 30), seed=7)
    words = min(8192, lab.numbers("qwen3-0.6b")["vocab_size"]) - 7
    data = write_rows(lab.work / "chats.jsonl", chat_rows(lengths, words=words, seed=7))
    for name, method in methods().items():
        from tanren.config import load

        config = load(
            None,
            base={
                "model": {"name": str(folder)},
                "data": {"train": str(data)},
                "method": method.model_dump(),
                "training": {"max_steps": steps, "batch_size": 8},
                "evaluation": {"samples": 0},
            },
        )
        lab.clear()
        run = RunDirectory.create(lab.work / f"run-{name}", config)
        result = pipeline.execute(run)
        losses = [e["loss"] for e in run.events() if e["event"] == "step"]
        tail = max(1, len(losses) // 4)
        falling = np.mean(losses[-tail:]) < np.mean(losses[:tail])
        finite = all(math.isfinite(loss) for loss in losses)
        yield {
            "method": name,
            "steps": result["steps"],
            "loss first": losses[0],
            "loss last": losses[-1],
            "side by side": result["side_by_side"],
            "reloaded logits off by": result["proof"]["logit_difference"],
            "moved from base by": result["proof"]["moved_from_base"],
            "seconds": result["seconds"]["all"],
            "ok": bool(finite and falling and result["proof"]["passed"]),
        }


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing whose memory is estimated and measured. `checkpointed`: layers; -1 for all."""

    model: str
    method: str
    tokens: int
    checkpointed: int = 0


def memory(lab: Lab) -> Iterator[Row]:
    """The estimate's peak against the allocator's, without the parts that are no tensors."""
    small, middle, big = "qwen3-0.6b", "qwen3-1.7b", lab.big
    settings = [
        Setting(small, "lora", 4096),
        Setting(small, "dora", 4096),
        Setting(small, "qlora", 4096),
        Setting(middle, "lora", 16_384),
        Setting(middle, "lora", 16_384, checkpointed=14),
        Setting(big, "lora", 4096),
        Setting(big, "lora", 16_384, checkpointed=-1),
        Setting(big, "qlora", 8192, checkpointed=-1),
    ]
    for setting in settings[: lab.pick(len(settings), 3)]:
        layers = lab.numbers(setting.model)["num_hidden_layers"]
        count = layers if setting.checkpointed < 0 else min(setting.checkpointed, layers)
        tokens = lab.pick(setting.tokens, 128)
        trained = _train(lab, setting.model, setting.method, tokens, count)
        ratio = trained.peak / trained.estimate if trained.peak else None
        yield {
            "model": setting.model,
            "method": setting.method,
            "tokens per pass": tokens,
            "checkpointed layers": f"{count} of {layers}",
            "estimate GB": trained.estimate / 1e9,
            "measured GB": trained.peak / 1e9 if trained.peak else None,
            "measured / estimate": ratio,
            "ok": ESTIMATE_RANGE[0] <= ratio <= ESTIMATE_RANGE[1] if ratio else None,
        }
    if not lab.cuda:
        raise Skipped("peaks are counted by CUDA's allocator; only the estimate was made")


def planning(lab: Lab) -> Iterator[Row]:
    """Plans for small memories, carried out under exactly that memory: they must fit, and not
    shrink.
    """
    cases = [
        ("qwen3-0.6b", "lora", 4),
        ("qwen3-1.7b", "lora", 12),
        ("qwen3-1.7b", "qlora", 8),
        (lab.big, "qlora", 24),
        (lab.big, "lora", 40),
    ]
    for name, method_name, gibibytes in cases[: lab.pick(len(cases), 1)]:
        limit = gibibytes * GIB
        plan = _plan(lab, name, method_name, limit)
        trained = _train(
            lab,
            name,
            method_name,
            plan.micro_batch_tokens,
            plan.checkpointed_layers,
            limit=limit - plan.bytes_of("runtime") if lab.cuda else None,
        )
        yield {
            "model": name,
            "method": method_name,
            "memory GiB": gibibytes,
            "plan fits": plan.fits,
            "tokens per pass": plan.micro_batch_tokens,
            "checkpointed layers": f"{plan.checkpointed_layers} of {plan.layers}",
            "estimate GB": plan.total_bytes / 1e9,
            "measured GB": trained.peak / 1e9 if trained.peak else None,
            "shrunk": trained.shrunk,
            "ok": plan.fits and not trained.shrunk,
        }
    if not lab.cuda:
        raise Skipped("the limit needs CUDA's allocator; the plan was carried out without one")


def out_of_memory(lab: Lab) -> Iterator[Row]:
    """A pass that does not fit is halved, and the training stays the same (T28)."""
    tokens = lab.pick(16_384, 256)
    whole = _train(lab, "qwen3-0.6b", "lora", tokens, 0)
    half = _train(lab, "qwen3-0.6b", "lora", tokens // 2, 0, step_tokens=tokens)
    if whole.peak is None or half.peak is None:
        raise Skipped("running out of memory on purpose needs CUDA's allocator")
    limit = (whole.peak + half.peak) // 2
    tight = _train(lab, "qwen3-0.6b", "lora", tokens, 0, limit=limit)
    for name, found, allowed in (
        ("whole", whole, None),
        ("half", half, None),
        ("tight", tight, limit),
    ):
        off = max(
            abs(a - b) / abs(b) for a, b in zip(found.clock.losses, whole.clock.losses, strict=True)
        )
        yield {
            "run": name,
            "limit GB": allowed / 1e9 if allowed else None,
            "peak GB": (found.peak or 0) / 1e9,
            "tokens per pass at the end": found.tokens_per_pass,
            "shrunk": found.shrunk,
            "loss off by": off,
            "ok": off < 1e-2 and (found.shrunk or allowed is None),
        }


@dataclass(frozen=True, slots=True)
class Trained:
    """What a short training showed. `estimate` leaves out the parts that are no tensors."""

    clock: Clock
    peak: int | None
    estimate: int
    tokens_per_pass: int
    shrunk: bool


def _train(
    lab: Lab,
    name: str,
    method_name: str,
    tokens: int,
    checkpointed: int,
    *,
    step_tokens: int | None = None,
    limit: int | None = None,
    steps: int = 3,
) -> Trained:
    """Three steps of `step_tokens` in passes of `tokens`, under `limit` bytes if there is one."""
    method = methods()[method_name]
    words = lab.numbers(name)["vocab_size"]
    mean = max(16, (step_tokens or tokens) // 16)
    work = make_work(steps=steps, tokens=step_tokens or tokens, mean=mean, vocabulary=words)
    lab.clear()
    model, base = fresh(lab, name, method)
    checkpoint_layers(base, checkpointed)
    clock = Clock(lab)
    trainer = our_trainer(
        lab,
        model,
        method,
        work,
        clock,
        folder=lab.model(name),
        name=f"{name}-{method_name}",
        budget=tokens,
        side_by_side=True,
    )
    lab.clear()
    if limit is None:
        trainer.fit()
    else:
        with lab.memory_limit(limit):
            trainer.fit()
    found = Trained(
        clock=clock,
        peak=lab.peak(),
        estimate=_estimate(lab, name, method, work, tokens, checkpointed),
        tokens_per_pass=trainer.step.micro_batch_tokens,
        shrunk=trainer.step.micro_batch_tokens < tokens,
    )
    trainer.release()
    del trainer, model, base
    lab.clear()
    return found


def _estimate(lab: Lab, name: str, method: Any, work: Work, tokens: int, checkpointed: int) -> int:
    from tanren.estimate import memory_parts, shape_of

    longest = max(work.lengths)
    load = workload(lab, limit=GIB, longest=longest, step_tokens=work.tokens, tokens=tokens)
    parts = memory_parts(
        shape_of(lab.numbers(name)),
        method_facts(lab, method),
        load,
        micro_batch_tokens=tokens,
        checkpointed_layers=checkpointed,
    )
    return sum(part.bytes for part in parts if part.name not in ("runtime", "reserve"))


def _plan(lab: Lab, name: str, method_name: str, limit: int) -> Any:
    from tanren.estimate import plan_memory, shape_of

    tokens = lab.pick(16_384, 256)
    load = workload(lab, limit=limit, longest=tokens // 4, step_tokens=tokens, tokens=None)
    return plan_memory(shape_of(lab.numbers(name)), method_facts(lab, methods()[method_name]), load)

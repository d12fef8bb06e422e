"""Sections that are timed: throughput of the methods, and the ladder from plain TRL to here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench.inputs import random_model

from gpu_checks.estimates import method_facts, workload
from gpu_checks.lab import Lab, Row, Skipped, fresh, methods
from gpu_checks.steps import (
    Clock,
    Work,
    checkpoint_layers,
    make_work,
    our_trainer,
    rates,
    trained_parameters,
    trl_trainer,
)

WARM_STEPS, TIMED_STEPS = 2, 5
TARGETS = {
    ("8b", "lora"): 15_000,
    ("8b", "qlora"): 13_500,
    ("8b", "dora"): 12_500,
    ("8b", "lora_plus"): 15_000,
    ("qwen3-1.7b", "lora"): 55_000,
    ("qwen3-0.6b", "lora"): 100_000,
}
"""Tokens per second on an H200."""


def throughput(lab: Lab) -> Iterator[Row]:
    """What a user gets: rows side by side, 16k tokens per pass, layers recomputed only as
    planned.
    """
    names = [(lab.big, method) for method in methods()]
    names += [("qwen3-1.7b", "lora"), ("qwen3-0.6b", "lora")]
    for name, method_name in names[: lab.pick(len(names), 2)]:
        work = _work(lab, name)
        target = TARGETS.get(("8b" if name == lab.big else name, method_name))
        yield {"model": name, **_ours(lab, name, method_name, work, target=target)}


def _work(lab: Lab, name: str) -> Work:
    """Lognormal rows: about 1,000 tokens on average, weighted by attention about 2,000."""
    return make_work(
        steps=lab.pick(WARM_STEPS + TIMED_STEPS, 4),
        tokens=lab.pick(16_384, 128),
        mean=lab.pick(1024, 16),
        vocabulary=lab.numbers(name)["vocab_size"],
    )


def _ours(
    lab: Lab,
    name: str,
    method_name: str,
    work: Work,
    *,
    target: float | None = None,
    side_by_side: bool = True,
    prepare: Callable[[Any], None] | None = None,
) -> Row:
    """One timed run of the package's Trainer. `prepare` sees the base before the adapter."""
    method = methods()[method_name]
    lab.clear()
    model, base = fresh(lab, name, method)
    if prepare is not None:
        prepare(base)
    tokens = lab.pick(16_384, 128)
    budget = max(tokens, max(work.lengths))
    count = _planned_layers(lab, name, method_name, work, budget)
    checkpoint_layers(base, count)
    clock = Clock(lab)
    trainer = our_trainer(
        lab,
        model,
        method,
        work,
        clock,
        folder=lab.model(name if method.storage == "nf4" else "qwen3-0.6b"),
        name=f"{name}-{method_name}",
        budget=budget,
        side_by_side=side_by_side,
    )
    lab.new_peak()
    trainer.fit()
    row = _timed(lab, name, work, clock, trained_parameters(model), target=target)
    trainer.release()
    del trainer, model, base
    lab.clear()
    return {"what": method_name, "recomputed layers": count, **row}


def _planned_layers(lab: Lab, name: str, method_name: str, work: Work, budget: int) -> int:
    from tanren.devices import this_device
    from tanren.estimate import plan_memory, shape_of

    load = workload(
        lab,
        limit=this_device().memory_total,
        longest=max(work.lengths),
        step_tokens=work.tokens,
        tokens=budget,
    )
    facts = method_facts(lab, methods()[method_name])
    return int(plan_memory(shape_of(lab.numbers(name)), facts, load).checkpointed_layers)


def _timed(
    lab: Lab, name: str, work: Work, clock: Clock, trained: int, *, target: float | None = None
) -> Row:
    seconds = clock.typical(warm=WARM_STEPS - 1)  # the clock itself leaves the first step out
    found = rates(lab, name, work, seconds, trained)
    peak = lab.peak()
    reached = None if target is None or lab.tiny else found["tokens/s"] >= target
    return {
        **found,
        "target": target,
        "reached": reached,
        "s/step": seconds,
        "peak GB": peak / 1e9 if peak else None,
        "loss": f"{clock.losses[0]:.3f} → {clock.losses[-1]:.3f}",
        "ok": clock.learned,
    }


# --- the ladder -----------------------------------------------------------------------------------


def ladder(lab: Lab) -> Iterator[Row]:
    """From TRL's defaults to here, one change at a time, on one model and the same rows. A rung
    that fails is told and the next one is tried.
    """
    name = lab.big
    work = _work(lab, name)
    rungs: dict[str, Callable[[], Row]] = {
        "TRL, defaults (bf16 base)": lambda: _trl(lab, name, work, checkpointing=True),
        "+ no recomputation": lambda: _trl(lab, name, work, checkpointing=False),
        "+ no input cast": lambda: _trl(lab, name, work, checkpointing=False, cast_inputs=False),
        "+ our step and loss (padded)": lambda: _ours(lab, name, "lora", work, side_by_side=False),
        "+ side by side, varlen": lambda: _ours(lab, name, "lora", work),
        "+ layers compiled": lambda: _ours(lab, name, "lora", work, prepare=_compile_layers),
        "+ Liger kernels, not compiled": lambda: _ours(lab, name, "lora", work, prepare=_liger),
    }
    missing = []
    for title, rung in rungs.items():
        try:
            row = rung()
        except Skipped as reason:
            missing.append(f"{title}: {reason}")
            continue
        except RuntimeError as error:  # out of memory, a compiler's complaint
            row = {
                "ok": False,
                "loss": f"{type(error).__name__}: {str(error).splitlines()[0][:90]}",
            }
        lab.clear()
        yield {"rung": title, **row}
    if missing:
        raise Skipped("; ".join(missing))


def _trl(
    lab: Lab,
    name: str,
    work: Work,
    *,
    checkpointing: bool,
    cast_inputs: bool = True,
    rows_per_pass: int = 4,
) -> Row:
    """Plain SFTTrainer; passes of fewer rows where four do not fit."""
    lab.clear()
    model = random_model(lab.numbers(name), dtype=lab.dtype, device=str(lab.device))
    clock = Clock(lab)
    trainer = trl_trainer(
        lab,
        model,
        work,
        clock,
        rows_per_pass=min(rows_per_pass, len(work.sequences)),
        checkpointing=checkpointing,
        cast_inputs=cast_inputs,
    )
    lab.new_peak()
    try:
        trainer.train()
    except torch.OutOfMemoryError:
        if rows_per_pass == 1:
            raise
        del trainer, model
        lab.clear()
        return _trl(
            lab,
            name,
            work,
            checkpointing=checkpointing,
            cast_inputs=cast_inputs,
            rows_per_pass=rows_per_pass // 2,
        )
    row = _timed(lab, name, work, clock, trained_parameters(trainer.model))
    layers = lab.numbers(name)["num_hidden_layers"] if checkpointing else 0
    trainer.accelerator.free_memory()
    del trainer, model
    return {"what": f"lora, {rows_per_pass} rows/pass", "recomputed layers": layers, **row}


def _compile_layers(base: Any) -> None:
    """Each decoder layer by itself, so that one compilation serves all of them."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if next(base.parameters()).device.type != "cuda":
        raise Skipped("compiled kernels are measured on CUDA")
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def _liger(base: Any) -> None:
    """Norm, rotation and gate as Triton kernels. It changes transformers' modules for good: the
    last rung.
    """
    from importlib.util import find_spec

    if next(base.parameters()).device.type != "cuda":
        raise Skipped("Liger's kernels need CUDA")
    if find_spec("liger_kernel") is None:
        raise Skipped("liger-kernel is not installed")
    from liger_kernel.transformers import apply_liger_kernel_to_llama, apply_liger_kernel_to_qwen3

    apply = {"llama": apply_liger_kernel_to_llama, "qwen3": apply_liger_kernel_to_qwen3}
    apply[base.config.model_type](
        rope=True,
        rms_norm=True,
        swiglu=True,
        cross_entropy=False,
        fused_linear_cross_entropy=False,
        model=base,
    )

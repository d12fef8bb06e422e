"""Choose tokens per pass and checkpointed layers so that a run fits, or say what would have to
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from tanren.estimate.flops import hardware_flops_per_token
from tanren.estimate.memory import (
    MemoryPlan,
    MethodFacts,
    Workload,
    base_weight_bytes,
    memory_parts,
)
from tanren.estimate.shape import ModelShape

# Tokens per pass. A GPU's products are efficient, and unpacking 4-bit weights cheap beside them,
# from about 8k on; beyond 16k nothing is gained. A CPU gains nothing beyond a few thousand.
GOOD_TOKENS = {"cuda": 8192, "cpu": 4096, "mps": 4096}
MOST_TOKENS = {"cuda": 16384, "cpu": 4096, "mps": 4096}
LOWEST_RANK = 4
SHORTEST_ROW = 128


def plan_memory(shape: ModelShape, facts: MethodFacts, work: Workload) -> MemoryPlan:
    """The largest useful pass with the fewest checkpointed layers that fits `work.memory_bytes`.

    First the good number of tokens with as few checkpointed layers as that takes; more tokens if
    they come without checkpointing; fewer tokens only when checkpointing every layer is not enough
    (on CPUs the other way round: fewer tokens first, since a smaller pass costs nothing there). If
    not even the longest row alone fits, the returned plan is the smallest there is, `fits` is
    False, and `advice` names the changes that were checked to help.
    """
    plan = _search(shape, facts, work)
    if plan.fits:
        return replace(plan, advice=tuple(_choices(shape, facts, work, plan)))
    return replace(plan, advice=tuple(_remedies(shape, facts, work, plan)))


def _search(shape: ModelShape, facts: MethodFacts, work: Workload) -> MemoryPlan:
    passes = list(_passes(work))
    # Checkpointing the last layer too would save nothing: it is recomputed at the very moment of
    # the peak.
    layers = range(shape.layers)
    if work.checkpointing != "auto":
        layers = range(shape.layers, shape.layers + 1) if work.checkpointing else range(1)
    order = [(tokens, count) for tokens in passes for count in layers]
    if work.device == "cpu" and work.checkpointing == "auto":
        order = [(tokens, 0) for tokens in passes] + order
    order = [(tokens, layers[0]) for tokens in _larger_passes(work)] + order
    plan = _plan(shape, facts, work, *order[-1])
    if not plan.fits:
        return plan
    plans = (_plan(shape, facts, work, tokens, count) for tokens, count in order)
    return next(candidate for candidate in plans if candidate.fits)


def _plan(
    shape: ModelShape, facts: MethodFacts, work: Workload, tokens: int, checkpointed: int
) -> MemoryPlan:
    parts = memory_parts(
        shape, facts, work, micro_batch_tokens=tokens, checkpointed_layers=checkpointed
    )
    trained = shape.total if facts.rank is None else facts.adapter(shape).total
    return MemoryPlan(
        parts=parts,
        memory_bytes=work.memory_bytes,
        micro_batch_tokens=tokens,
        checkpointed_layers=checkpointed,
        layers=shape.layers,
        trainable_parameters=trained,
        advice=(),
    )


def _passes(work: Workload) -> Iterator[int]:
    """Tokens per pass to try, from the good number down to one longest row."""
    if work.micro_batch_tokens is not None:
        yield max(work.micro_batch_tokens, work.longest_row)
        return
    tokens = max(work.longest_row, min(work.batch_tokens, GOOD_TOKENS[work.device]))
    while tokens > work.longest_row:
        yield tokens
        tokens = max(work.longest_row, tokens * 3 // 4)
    yield work.longest_row


def _larger_passes(work: Workload) -> Iterator[int]:
    """Tokens per pass beyond the good number, largest first: taken if no layer is recomputed."""
    if work.micro_batch_tokens is not None:
        return
    good = max(work.longest_row, GOOD_TOKENS[work.device])
    tokens = min(work.batch_tokens, MOST_TOKENS[work.device])
    while tokens > good:
        yield tokens
        tokens -= 1024


def _choices(
    shape: ModelShape, facts: MethodFacts, work: Workload, plan: MemoryPlan
) -> Iterator[str]:
    yield (
        f"Fits: {_gb(plan.total_bytes)} of {_gb(plan.memory_bytes)}, with "
        f"{plan.micro_batch_tokens:,} tokens per pass."
    )
    if plan.checkpointed_layers:
        cost = _checkpointing_cost(shape, facts, work, plan.checkpointed_layers)
        yield (
            f"The first {plan.checkpointed_layers} of {plan.layers} layers are computed again in "
            f"the backward pass: {cost:.0%} more arithmetic."
        )
    wanted = work.micro_batch_tokens
    if wanted is not None and wanted < work.longest_row:
        yield (
            f"training.micro_batch_tokens={wanted} is raised to {work.longest_row}: the longest "
            "row goes through in one pass."
        )


def _checkpointing_cost(
    shape: ModelShape, facts: MethodFacts, work: Workload, checkpointed: int
) -> float:
    size = facts.adapter(shape)
    lora = None if facts.rank is None else size.lora - size.idle
    without, with_it = (
        hardware_flops_per_token(
            shape, adapter_parameters=lora, length=work.longest_row, checkpointed_layers=count
        )
        for count in (0, checkpointed)
    )
    return with_it / without - 1


def _remedies(
    shape: ModelShape, facts: MethodFacts, work: Workload, plan: MemoryPlan
) -> Iterator[str]:
    """What does not fit, then every single change that makes it fit, else all of them together."""
    yield (
        f"Does not fit: a pass of {plan.micro_batch_tokens:,} tokens with "
        f"{plan.checkpointed_layers} of {plan.layers} layers checkpointed needs "
        f"{_gb(plan.total_bytes)}, {_gb(-plan.headroom_bytes)} more than there is."
    )
    found = False
    for sentence, changed_facts, changed_work in _single_changes(shape, facts, work):
        changed = _search(shape, changed_facts, changed_work)
        if changed.fits:
            found = True
            yield f"{sentence}: {_gb(changed.total_bytes)}."
    if not found:
        yield _all_changes(shape, facts, work)


def _single_changes(
    shape: ModelShape, facts: MethodFacts, work: Workload
) -> Iterator[tuple[str, MethodFacts, Workload]]:
    smaller = _in_four_bits(shape, facts)
    if facts.rank is None:
        adapter = replace(facts, rank=16)
        yield "Train an adapter instead of every weight (method.name=lora)", adapter, work
    if smaller != facts:
        yield "Store the base in 4 bits (method.name=qlora)", smaller, work
    if work.checkpointing is False:
        freed = replace(work, checkpointing="auto")
        yield "Let layers be computed again (training.gradient_checkpointing=auto)", facts, freed
    wanted = work.micro_batch_tokens
    if wanted is not None and wanted > work.longest_row:
        freed = replace(work, micro_batch_tokens=None)
        yield "Let the pass be chosen (training.micro_batch_tokens=auto)", facts, freed
    if facts.optimizer == "adamw":
        light = replace(facts, optimizer="paged_adamw_8bit")
        yield "Keep optimizer state in 8 bits (training.optimizer=paged_adamw_8bit)", light, work
    rank = _largest(
        LOWEST_RANK,
        (facts.rank or 0) - 1,
        lambda rank: _search(shape, replace(facts, rank=rank), work).fits,
    )
    if rank:
        yield f"Lower the rank (method.rank={rank})", replace(facts, rank=rank), work
    length = _longest_that_fits(shape, facts, work)
    if length:
        each = length // work.sequences
        yield f"Cut rows (data.max_length={each})", facts, _cut(work, length)


def _all_changes(shape: ModelShape, facts: MethodFacts, work: Workload) -> str:
    rank: int = min(facts.rank, 8) if facts.rank else 16
    light = _in_four_bits(shape, replace(facts, rank=rank, optimizer="paged_adamw_8bit"))
    free = replace(work, checkpointing="auto", micro_batch_tokens=None)
    base = "4 bits" if light.storage == "nf4" else work.dtype
    together = f"the base in {base}, rank {rank}, an 8-bit optimizer and checkpointing"
    if _search(shape, light, free).fits:
        return f"No single change is enough; {together} together fit."
    length = _longest_that_fits(shape, light, free)
    if length:
        each = length // work.sequences
        return f"No single change is enough; {together} fit with data.max_length={each}."
    weights = base_weight_bytes(shape, light, work.dtype)
    return (
        f"Even {together} do not fit with rows of {SHORTEST_ROW} tokens: the weights alone take "
        f"{_gb(weights)}. Choose a smaller model or a device with more memory."
    )


def _in_four_bits(shape: ModelShape, facts: MethodFacts) -> MethodFacts:
    """The same method on an NF4 base, where that exists."""
    storage: Literal["dtype", "nf4"] = facts.storage if shape.experts else "nf4"
    return replace(facts, storage=storage, rank=facts.rank or 16)


def _cut(work: Workload, length: int) -> Workload:
    """The same rows cut to `length` tokens. Shortening every row in proportion is not known here,
    so it is not used.
    """
    pass_tokens = work.micro_batch_tokens
    return replace(
        work,
        longest_row=length,
        batch_tokens=min(work.batch_tokens, length * max(1, work.batch_tokens // work.longest_row)),
        micro_batch_tokens=None if pass_tokens is None else min(pass_tokens, length),
    )


def _longest_that_fits(shape: ModelShape, facts: MethodFacts, work: Workload) -> int | None:
    return _largest(
        SHORTEST_ROW,
        work.longest_row - 1,
        lambda length: _search(shape, facts, _cut(work, length)).fits,
    )


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """The largest whole number in [low, high] that fits, given that every smaller one then fits
    too.
    """
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"

"""Questions to the package's memory estimate."""

from __future__ import annotations

from typing import Any

from gpu_checks.lab import Lab


def method_facts(lab: Lab, method: Any) -> Any:
    """What the estimate has to know of a method as it is trained here."""
    from tanren.estimate import MethodFacts

    small = method.storage == "nf4" and lab.cuda
    return MethodFacts(
        storage=method.storage,
        rank=method.rank,
        dora=method.use_dora,
        optimizer="paged_adamw_8bit" if small else "adamw",
    )


def workload(lab: Lab, *, limit: int, longest: int, step_tokens: int, tokens: int | None) -> Any:
    """What is trained: rows side by side, `tokens` per pass (None: to be chosen)."""
    from tanren.estimate import Workload

    return Workload(
        memory_bytes=limit,
        longest_row=longest,
        batch_tokens=step_tokens,
        dtype="bfloat16" if lab.cuda else "float32",
        device="cuda" if lab.cuda else "cpu",
        micro_batch_tokens=tokens,
        attention="varlen",
        packed=True,
    )

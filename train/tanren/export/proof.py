"""The gate after export: what a reader finds on disk behaves like the tuned model.

The tuned model answers some conversations, greedily. Prompts and answers together are the probes:
both models read them, and their logits are compared position by position. Then the export, with
its own tokenizer, template and stops, answers the same conversations by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tanren.adapter import adapter_switched_off
from tanren.errors import Fault, ProofError
from tanren.generate import Answer, Decoding, answer_all
from tanren.template import ChatRenderer

Message = dict[str, Any]

ANSWER_TOKENS = 48
TUNED = "the tuned model"
COMPARED_TOKENS = 96
"""The last tokens of each probe are compared: 8 probes of a vocabulary of 152k are 0.5 GB."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What the type of the written numbers allows. `logits`: largest difference as a share of the
    largest logit. `kl`: mean, in nats. `top1`: share of positions with the same likeliest token.
    """

    logits: float
    kl: float
    top1: float


TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(1e-4, 1e-6, 1.0),
    "bfloat16": Tolerance(0.1, 1e-2, 0.97),
    "float16": Tolerance(0.05, 2e-3, 0.98),
    "q8_0": Tolerance(0.2, 3e-2, 0.95),
    "fewer bits": Tolerance(1.0, 0.5, 0.8),
}


@dataclass(frozen=True)
class Said:
    """What a model answered, and what it thinks at each compared position.

    logits: one (positions, vocab) float32 tensor a probe, on the CPU.
    """

    answers: tuple[Answer, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]

    @property
    def probes(self) -> list[tuple[int, ...]]:
        """Prompt and answer of each conversation, as tokens."""
        pairs = zip(self.prompt_ids, self.answers, strict=True)
        return [prompt + answer.token_ids for prompt, answer in pairs]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far one model's logits are from another's, over all compared positions."""

    max_logit_difference: float
    mean_logit_difference: float
    relative_logit_difference: float
    kl_mean: float
    kl_max: float
    top1_agreement: float


@dataclass
class ExportProof:
    """`distance` to the tuned model; `moved`: the base's own distance from it, which tuning made.
    `others`: the tuned model's distance to other ways of merging.
    """

    passed: bool
    kind: str
    reader: str
    compared_with: str
    dtype: str
    computed_in: str
    prompts: int
    prompts_from: str
    positions: int
    distance: Distance
    moved: Distance | None
    others: dict[str, Distance]
    tolerance: Tolerance
    greedy_agreement: float | None
    stopped: float | None
    stop_ids: dict[str, list[int]]
    prompt_ids_equal: str
    facts: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: a number that is not finite becomes its name, for JSON has none."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def answers_of(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    renderer: ChatRenderer,
    conversations: Sequence[Sequence[Message]],
) -> Said:
    """Greedy answers, and the logits on them."""
    decoding = Decoding(max_new_tokens=ANSWER_TOKENS)
    answers = tuple(answer_all(model, tokenizer, renderer, conversations, decoding))
    prompts = tuple(tuple(renderer.prompt_ids(list(c))) for c in conversations)
    said = Said(answers, prompts, ())
    return Said(answers, prompts, logits_on(model, said.probes))


def logits_on(model: nn.Module, probes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """(positions, vocab) for the last tokens of each probe, float32 on the CPU."""
    where = next(model.parameters()).device
    found = []
    for probe in probes:
        with torch.no_grad():
            out = model(input_ids=torch.tensor([list(probe)], device=where), use_cache=False)
        found.append(out.logits[0, -COMPARED_TOKENS:].float().cpu())
    return tuple(found)


def base_logits(model: nn.Module, probes: Sequence[Sequence[int]]) -> tuple[Tensor, ...] | None:
    """The base's, where there is an adapter to switch off."""
    if not hasattr(model, "disable_adapter"):
        return None
    with adapter_switched_off(model):
        return logits_on(model, probes)


def tie_of(dtype: torch.dtype) -> float:
    """How close two likeliest tokens may lie, as a share of the largest logit, for either of them
    to count as agreement: nothing in float32, the noise of its products in bfloat16.
    """
    return 0.0 if dtype == torch.float32 else 2e-2


def distance(expected: Sequence[Tensor], found: Sequence[Tensor], *, tie: float = 0.0) -> Distance:
    """Each pair (positions, vocab). A vocabulary that only one of them has rows for counts up to
    the shorter one. `tie`: see `tie_of`.
    """
    largest = total = kl_total = kl_largest = 0.0
    positions = agree = 0
    scale = 0.0
    for a, b in zip(expected, found, strict=True):
        width = min(a.shape[-1], b.shape[-1])
        a, b = a[:, :width], b[:, :width]
        gap = (a - b).abs()
        p, q = a.double().log_softmax(-1), b.double().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)
        largest = _larger(largest, float(gap.max()))
        kl_largest = _larger(kl_largest, float(kl.max()))
        scale = max(scale, float(a.abs().max()))
        total += float(gap.mean()) * len(a)
        kl_total += float(kl.sum())
        behind = a.amax(-1) - a.gather(-1, b.argmax(-1, keepdim=True)).squeeze(-1)
        agree += int((behind <= tie * a.abs().amax(-1)).sum())
        positions += len(a)
    return Distance(
        max_logit_difference=largest,
        mean_logit_difference=total / positions,
        relative_logit_difference=largest / max(scale, 1e-6),
        kl_mean=max(kl_total / positions, 0.0) if kl_total == kl_total else kl_total,
        kl_max=kl_largest,
        top1_agreement=agree / positions,
    )


def _larger(a: float, b: float) -> float:
    """As max, but a NaN anywhere is the answer (Python's max forgets one that is not first)."""
    return a if a != a or a > b else b


def judge(proof: ExportProof) -> ExportProof:
    """Fill in `failures` and `passed` from the measurements."""
    d, allowed = proof.distance, proof.tolerance
    failures = []
    if not d.relative_logit_difference <= allowed.logits:
        failures.append(
            f"logits differ by {d.relative_logit_difference:.1e} of the largest "
            f"(allowed for {proof.dtype}: {allowed.logits:.0e})"
        )
    if not d.kl_mean <= allowed.kl:
        failures.append(f"mean KL {d.kl_mean:.1e} (allowed for {proof.dtype}: {allowed.kl:.0e})")
    if not d.top1_agreement >= allowed.top1:
        failures.append(
            f"the likeliest token agrees at {d.top1_agreement:.1%} of positions "
            f"(at least {allowed.top1:.0%} for {proof.dtype})"
        )
    swallowed = proof.moved is not None and 0 < proof.moved.kl_mean < 2 * d.kl_mean
    if proof.moved is not None and swallowed and proof.computed_in == "float32":
        failures.append(
            f"it is {d.kl_mean:.1e} nats from the tuned model, and tuning moved the base by "
            f"{proof.moved.kl_mean:.1e}: rounding has swallowed the tuning"
        )
    exact = proof.dtype == proof.computed_in == "float32" and proof.compared_with == TUNED
    if exact and proof.greedy_agreement is not None and proof.greedy_agreement < 1:
        failures.append(f"{proof.greedy_agreement:.0%} of its answers are the tuned model's own")
    failures += framing_failures(proof.stop_ids, proof.prompt_ids_equal)
    proof.failures += failures
    proof.passed = not proof.failures
    return proof


def framing_failures(stop_ids: Mapping[str, list[int]], prompt_ids_equal: str) -> list[str]:
    """What is wrong with what ends a reply (T4) and with prompts (T1)."""
    failures = []
    if stop_ids.get("tuned") != stop_ids.get("export"):
        failures.append(
            f"it stops at tokens {stop_ids.get('export')}, the tuned model at "
            f"{stop_ids.get('tuned')}"
        )
    same, _, all_of_them = prompt_ids_equal.partition("/")
    if same != all_of_them:
        failures.append(f"prompts get the same token ids in {prompt_ids_equal} conversations")
    return failures


def require(proof: ExportProof, folder: Path) -> None:
    """Raise ProofError when a proof failed, with every reason."""
    if proof.passed:
        return
    raise ProofError(
        "what was exported does not behave like what was tuned; nothing was kept",
        [
            Fault(str(folder), failure, "the tuned model", _remedy(proof, failure))
            for failure in proof.failures
        ],
    )


def _remedy(proof: ExportProof, failure: str) -> str:
    if "swallowed" in failure:
        return "write it with --dtype float32, or tune for longer"
    if proof.tolerance == TOLERANCES["fewer bits"] or proof.dtype == "q8_0":
        return "choose a --dtype with more bits"
    return "keep the run and report this"


def greedy_agreement(expected: Said, found: Said) -> float:
    """Share of conversations that both answer with the same tokens and the same end."""
    pairs = list(zip(expected.answers, found.answers, strict=True))
    same = [a.token_ids == b.token_ids and a.finish_reason == b.finish_reason for a, b in pairs]
    return sum(same) / len(same)


def stopped(said: Said) -> float:
    """Share of answers that ended by themselves within the tokens they were given."""
    return sum(a.finish_reason == "stop" for a in said.answers) / len(said.answers)

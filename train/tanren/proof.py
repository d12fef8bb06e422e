"""The gate after training: what lies on disk behaves like what was trained (T8).

The saved adapter is put on a fresh base by plain PEFT and compared with the model in memory, on
logits of real rows. Both sides compute without autocast and with PEFT's own casts, so equal weights
give equal bits on one device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from tanren.adapter import adapter_switched_off
from tanren.errors import Fault, ProofError

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
PROBE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Reference:
    """What the model in memory says. logits and base_logits: one (tokens, vocab) float32 tensor a
    probe, on the CPU.
    """

    probes: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]
    base_logits: tuple[Tensor, ...] | None
    keys: frozenset[str]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Proof:
    """What reloading showed. Differences are the largest over all probes, relative to the largest
    logit.
    """

    passed: bool
    tensors: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    not_finite: tuple[str, ...]
    zero: tuple[str, ...]
    logit_difference: float
    tolerance: float
    top1_agreement: float
    kl_to_trained: float
    moved_from_base: float | None
    probes: int
    probe_tokens: int
    failures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: a number that is not finite becomes its name, for JSON has none."""
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def reference(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    keys: frozenset[str],
    *,
    tensors: Mapping[str, Tensor] | None = None,
) -> Reference:
    """Logits of the trained model, and of its base where there is an adapter to switch off.

    `tensors` are the values that the files must hold, bit for bit; None where saving converts them.
    """
    probes = tuple(tuple(int(i) for i in row[:PROBE_TOKENS]) for row in rows)
    with _as_peft_loads(model):
        logits = tuple(_logits(model, probe) for probe in probes)
        base = None
        if hasattr(model, "disable_adapter"):
            with adapter_switched_off(model):
                base = tuple(_logits(model, probe) for probe in probes)
    return Reference(probes, logits, base, keys, tensors or {})


@contextmanager
def _as_peft_loads(model: nn.Module) -> Iterator[None]:
    """PEFT's own input casts, evaluation mode: what anyone who loads the adapter gets."""
    modules = [m for m in model.modules() if hasattr(m, "cast_input_dtype_enabled")]
    before = [m.cast_input_dtype_enabled for m in modules]
    training = model.training
    model.eval()
    for module in modules:
        module.cast_input_dtype_enabled = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, flag in zip(modules, before, strict=True):
            module.cast_input_dtype_enabled = flag
        model.train(training)


def _logits(model: nn.Module, probe: tuple[int, ...]) -> Tensor:
    where = next(model.parameters()).device
    with torch.no_grad():
        out = model(input_ids=torch.tensor([probe], device=where), use_cache=False)
    logits: Tensor = out.logits[0].float().cpu()
    return logits


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files, on the CPU."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - not a dict
                found[key] = opened.get_tensor(key)
    return found


def prove(
    expected: Reference,
    reloaded: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype,
    full: bool = False,
) -> Proof:
    """Compare a reloaded model with the reference and the files with what was to be saved. Never
    raises on a mismatch: `require` does, after the proof is written.
    """
    tensors = saved_tensors(folder)
    missing = () if full else tuple(sorted(expected.keys - tensors.keys()))
    unexpected = () if full else tuple(sorted(tensors.keys() - expected.keys))
    not_finite = tuple(sorted(k for k, t in tensors.items() if not bool(torch.isfinite(t).all())))
    zero = tuple(sorted(k for k, t in tensors.items() if "lora_B" in k and not bool(t.any())))
    with _as_peft_loads(reloaded):
        found = tuple(_logits(reloaded, probe) for probe in expected.probes)
    difference = _largest(_relative(a, b) for a, b in zip(expected.logits, found, strict=True))
    tokens = sum(len(probe) for probe in expected.probes)
    agree = sum(
        int((a.argmax(-1) == b.argmax(-1)).sum())
        for a, b in zip(expected.logits, found, strict=True)
    )
    kl = sum(_kl(a, b) for a, b in zip(expected.logits, found, strict=True)) / tokens
    moved = None
    if expected.base_logits is not None:
        moved = _largest(_relative(a, b) for a, b in zip(expected.base_logits, found, strict=True))
    tolerance = TOLERANCE[dtype]
    b_keys = [k for k in tensors if "lora_B" in k]
    altered = sorted(
        key
        for key, wanted in expected.tensors.items()
        if key in tensors and not torch.equal(tensors[key], wanted)
    )
    failures = []
    if altered:
        failures.append(f"{len(altered)} tensors have other values, the first is {altered[0]}")
    if missing:
        failures.append(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if unexpected:
        failures.append(
            f"{len(unexpected)} tensors were not expected, the first is {unexpected[0]}"
        )
    if not_finite:
        failures.append(f"{len(not_finite)} tensors are not finite, the first is {not_finite[0]}")
    if zero:
        failures.append(f"{len(zero)} of {len(b_keys)} B matrices are zero: they learned nothing")
    if not difference <= tolerance:
        failures.append(
            f"logits differ by {difference:.2e} from the trained model (tolerance {tolerance:.0e})"
        )
    if moved and not full and not altered and moved > 0 and difference > 0.5 * moved:
        failures.append(
            f"logits differ by {difference:.2e} where tuning moved them by {moved:.2e}: the "
            "reloaded adapter cannot be told from another one"
        )
    if moved == 0:
        failures.append("logits equal the base model's: the adapter does nothing")
    return Proof(
        passed=not failures,
        tensors=len(tensors),
        missing=missing,
        unexpected=unexpected,
        not_finite=not_finite,
        zero=zero,
        logit_difference=difference,
        tolerance=tolerance,
        top1_agreement=agree / tokens,
        kl_to_trained=kl,
        moved_from_base=moved,
        probes=len(expected.probes),
        probe_tokens=tokens,
        failures=tuple(failures),
    )


def require(proof: Proof, folder: Path) -> None:
    """Raise ProofError when a proof failed, with every reason."""
    if proof.passed:
        return
    raise ProofError(
        "what was saved is not what was trained",
        [
            Fault(str(folder), failure, "the trained model", "keep the checkpoints and report this")
            for failure in proof.failures
        ],
    )


def _largest(values: Iterable[float]) -> float:
    """As max, but a NaN anywhere is the answer (Python's max forgets one that is not first)."""
    return float(torch.tensor(list(values)).max())


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-6))


def _kl(a: Tensor, b: Tensor) -> float:
    """Summed Kullback-Leibler divergence over positions, in nats."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum())

"""The proof for models that do not fit into memory: the written numbers themselves.

Every file is read back. Tensors that merging leaves alone must be there byte for byte; of each of
the others some rows are worked out again, in float64, by the textbook's formula and with
bitsandbytes' own 4-bit storage, and must be what was written to within the rounding of its type.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from tanren.errors import Fault, ModelError, ProofError
from tanren.export.merge.checkpoint import Checkpoint
from tanren.export.merge.nf4 import by_bitsandbytes
from tanren.export.merge.pieces import shape_of
from tanren.export.merge.plan import Change, LowRank, MergePlan
from tanren.export.proof import framing_failures
from tanren.export.tuned import Tuned
from tanren.model import device

ROWS = 16
"""Rows of each changed tensor that are worked out again, evenly spread."""
READ_BYTES = 1 << 26
ROUNDINGS = 0.51
"""Largest difference, in units of the last place: half of one, and float32's own rounding."""


@dataclass
class NumbersProof:
    """`largest_rounding`: the largest difference found, in units of the last place of its type."""

    passed: bool
    kind: str
    reader: str
    compared_with: str
    dtype: str
    copied_tensors: int
    changed_tensors: int
    rows: int
    largest_rounding: float
    stop_ids: dict[str, list[int]]
    prompt_ids_equal: str
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def require_memory(tuned: Tuned, width: int) -> None:
    """Raise ModelError where a model of `width` bytes a number cannot be loaded to be compared,
    before any work. Models are loaded one after the other.
    """
    needed = int(tuned.checkpoint.elements * width * 1.1)
    free = free_memory()
    if needed > free:
        where = "GPU" if device().type == "cuda" else "machine"
        raise ModelError.of(
            Fault(
                tuned.name,
                f"{needed / 1e9:.1f} GB of weights to load for the proof, {free / 1e9:.1f} GB free "
                f"on this {where}",
                "memory for one model at a time: the tuned one, and what was written",
                "for --to merged add --proof numbers, which compares number by number"
                + (", or TANREN_DEVICE=cpu" if where == "GPU" else ""),
            )
        )


def free_memory() -> int:
    """Bytes that are free where models are loaded."""
    if device().type == "cuda":
        return int(torch.cuda.mem_get_info(device())[0])
    return int(psutil.virtual_memory().available)


def prove_numbers(
    plan: MergePlan,
    folder: Path,
    *,
    dtype: str,
    stop_ids: dict[str, list[int]] | None = None,
    prompt_ids_equal: str = "",
) -> NumbersProof:
    """Read `folder` back and compare it with what base and adapter say. Raises nothing on a
    mismatch. `stop_ids` and `prompt_ids_equal` as in `ExportProof`; they cost no memory.
    """
    written = Checkpoint(folder)
    proof = NumbersProof(
        passed=False,
        kind="merged",
        reader="safetensors",
        compared_with="base and adapter, in float64",
        dtype=dtype,
        copied_tensors=0,
        changed_tensors=0,
        rows=0,
        largest_rounding=0.0,
        stop_ids=stop_ids or {},
        prompt_ids_equal=prompt_ids_equal,
    )
    proof.failures += framing_failures(proof.stop_ids, prompt_ids_equal)
    names = [*plan.checkpoint.places, *plan.added]
    missing = sorted(set(names) - written.places.keys())
    unexpected = sorted(written.places.keys() - set(names))
    for words, found in (("missing", missing), ("not expected", unexpected)):
        if found:
            proof.failures.append(f"{len(found)} tensors are {words}, the first is {found[0]}")
    for name in names:
        if name in written.places:
            _compare(plan, written, name, proof)
    proof.passed = not proof.failures
    return proof


def require(proof: NumbersProof, folder: Path) -> None:
    """Raise ProofError when a proof failed, with every reason."""
    if not proof.passed:
        raise ProofError(
            "what was written is not what base and adapter make; nothing was kept",
            [
                Fault(str(folder), failure, "their sum", "try again, and report this")
                for failure in proof.failures
            ],
        )


def _compare(plan: MergePlan, written: Checkpoint, name: str, proof: NumbersProof) -> None:
    shape = shape_of(plan, name)
    if written.places[name].shape != shape:
        proof.failures.append(f"{name} has the shape {written.places[name].shape}, not {shape}")
    elif plan.changes.get(name) is None:
        proof.copied_tensors += 1
        if not _same(plan.checkpoint, written, plan.added.get(name, name), name):
            proof.failures.append(f"{name} was to be copied and is another")
    else:
        proof.changed_tensors += 1
        off = _largest_rounding(plan, written, name, proof)
        proof.largest_rounding = max(proof.largest_rounding, off)
        if not off <= ROUNDINGS:
            proof.failures.append(f"{name} is off by {off:.3g} units of its last place")


def _same(base: Checkpoint, written: Checkpoint, origin: str, name: str) -> bool:
    """Stretch by stretch; with another type, the base's numbers rounded to it."""
    place = base.places[origin]
    kind = written.places[name].dtype
    step = READ_BYTES // place.dtype.itemsize
    for start in range(0, place.elements, step):
        count = min(step, place.elements - start)
        own = base.read_range(origin, start, count)
        wanted = own.to(kind)
        if kind != own.dtype and not torch.equal(own.isfinite(), wanted.isfinite()):
            return False  # too large for the type
        found = written.read_range(name, start, count)
        if not torch.equal(wanted.view(torch.uint8), found.view(torch.uint8)):
            return False
    return True


def _largest_rounding(
    plan: MergePlan, written: Checkpoint, name: str, proof: NumbersProof
) -> float:
    """Some rows of each matrix of a tensor, worked out again."""
    shape = shape_of(plan, name)
    height, width = shape[-2:] if len(shape) > 1 else (1, shape[0])
    rows = torch.linspace(0, height - 1, min(ROWS, height)).round().long()
    origin = _Origin(plan, name, plan.changes[name], width)
    largest = 0.0
    for matrix in range(torch.Size(shape).numel() // (height * width)):
        first = matrix * height
        exact = _exact(plan, plan.changes[name], origin, matrix, height, rows)
        places = [(first + int(row)) * width for row in rows]
        found = torch.stack([written.read_range(name, place, width) for place in places])
        largest = max(largest, _roundings(found, exact))
        proof.rows += len(rows)
    return largest


class _Origin:
    """Rows of the tensor that the updates are added to; all of it is held only in 4 bits' case."""

    def __init__(self, plan: MergePlan, name: str, change: Change, width: int) -> None:
        self._checkpoint = plan.checkpoint
        self._name = plan.added.get(name, name)
        self._width = width
        self._whole: Tensor | None = None
        if change.replacement is not None:
            assert plan.adapter is not None
            self._whole = plan.adapter.whole[change.replacement]
        elif change.through_nf4:
            loaded = plan.checkpoint.read(self._name).to(plan.compute_dtype)
            self._whole = by_bitsandbytes(loaded)
        if self._whole is not None:
            self._whole = self._whole.reshape(-1, width)

    def rows(self, first: int, rows: Tensor) -> Tensor:
        """(rows, width) in float64."""
        if self._whole is not None:
            return self._whole[first + rows].double()
        places = [(first + int(row)) * self._width for row in rows]
        read = [self._checkpoint.read_range(self._name, place, self._width) for place in places]
        return torch.stack(read).double()


def _exact(
    plan: MergePlan, change: Change, origin: _Origin, number: int, height: int, rows: Tensor
) -> Tensor:
    """These rows of the merged matrix, in float64."""
    first = number * height
    found = origin.rows(first, rows)
    for part in change.low_rank:
        magnitude = part.update.magnitude
        if magnitude is None:
            found = found + part.scale * _delta(part, number, rows)
        elif part.swapped:  # norms run down the columns: the whole matrix
            everything = torch.arange(height)
            direction = origin.rows(first, everything)
            direction = direction + part.scale * _delta(part, number, everything)
            found = (direction / direction.norm(dim=0) * magnitude.double())[rows]
        else:
            direction = found + part.scale * _delta(part, number, rows)
            norms = direction.norm(dim=1, keepdim=True)
            found = direction / norms * magnitude.double()[rows].unsqueeze(1)
    if change.token_rows is not None:
        assert plan.adapter is not None
        layer, indices = change.token_rows
        for place, row in enumerate(rows.tolist()):
            if row in indices:
                found[place] = plan.adapter.token_rows[layer][indices.index(row)].double()
    return found


def _delta(part: LowRank, number: int, rows: Tensor) -> Tensor:
    """These rows of B A as it lies in the stored matrix."""
    a, b = part.update.a, part.update.b
    assert a is not None
    assert b is not None
    if part.experts > 1:
        expert = number if part.expert is None else part.expert
        rank = a.shape[0] // part.experts
        a, b = a[expert * rank : (expert + 1) * rank], b[:, expert :: part.experts]
    b = b[slice(*part.b_rows)]
    left, right = (a.T, b.T) if part.swapped else (b, a)
    return left[rows].double() @ right.double()


def _roundings(found: Tensor, exact: Tensor) -> float:
    """Largest difference in units of the last place, at the size of the larger numbers of a row:
    sums in float32 carry the rounding of what they are made of.
    """
    unit = torch.finfo(found.dtype).eps
    size = exact.abs().clamp(min=float(exact.abs().mean()) + 1e-30)
    slack = exact.abs().amax(1, keepdim=True) * torch.finfo(torch.float32).eps * 4
    gap = ((found.double() - exact).abs() - slack).clamp(min=0)
    return float((gap / (size * unit)).max())

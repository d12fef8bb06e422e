"""An export from its request to its proof."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import peft
import torch
import transformers

from tanren import model as models
from tanren.errors import Fault, StorageError, UserError
from tanren.export import proof as proofs
from tanren.export.card import model_card
from tanren.export.card_facts import card_facts
from tanren.export.licence import copy_licence
from tanren.export.merged import (
    FLOATS,
    bytes_of,
    copy_adapter,
    name_base,
    plan_of,
    stored_dtype,
    write_merged,
)
from tanren.export.ollama.conversations import CONVERSATIONS
from tanren.export.proof import TOLERANCES, ExportProof, Said, answers_of, distance
from tanren.export.reference import Reference, release, take_reference
from tanren.export.tuned import Onto, Tuned
from tanren.export.vllm import ServedAdapter, write_served_adapter
from tanren.rundir import (
    discard_stale,
    missing_files,
    read_json,
    runs_root,
    staged_folder,
    write_json,
    write_text,
)
from tanren.template import ChatRenderer

T = TypeVar("T")
Kind = Literal["merged", "adapter", "gguf", "ollama", "vllm", "sglang"]
KINDS: tuple[Kind, ...] = ("merged", "adapter", "gguf", "ollama", "vllm", "sglang")


class Teller(Protocol):
    def __call__(self, event: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Request:
    """`out` None: beside the adapter in the run's folder. `dtype` None: what the base has."""

    to: Kind = "merged"
    out: Path | None = None
    dtype: str | None = None
    onto: Onto = "trained"
    prompts: int = 8
    overwrite: bool = False
    base_name: str | None = None
    """Public name of a base that the run knows as a folder."""
    system: str | None = None
    """Ollama's system message."""


@dataclass
class Exported:
    """What lies in `folder` now. `commands` use it; `notes` are what a user should know."""

    kind: Kind
    folder: Path
    dtype: str
    bytes: int
    proof: dict[str, Any]
    commands: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "folder": str(self.folder),
            "dtype": self.dtype,
            "bytes": self.bytes,
            "commands": list(self.commands),
            "notes": self.notes,
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "proof": self.proof,
        }


def export(tuned: Tuned, request: Request, tell: Teller) -> Exported:
    """Write the export beside its place, read it back, prove it, and only then let it appear.

    Raises UserError for a request that cannot be met, StorageError where there is no room, and
    ProofError where what was written behaves otherwise; then nothing is left.
    """
    folder = request.out or _default_folder(tuned, request.to)
    _require_free(folder, request)
    discard_stale(folder)
    return _WRITERS[request.to](tuned, request, folder, tell)


def proven_before(tuned: Tuned, request: Request) -> Exported | None:
    """The export of this kind that lies in the requested place already, whole and proven."""
    folder = request.out or _default_folder(tuned, request.to)
    if not (folder / "proof.json").is_file() or missing_files(folder):
        return None
    proof = read_json(folder / "proof.json")
    if proof.get("kind") != request.to or proof.get("passed") is not True:
        return None
    if request.dtype is not None and proof["dtype"] != request.dtype:
        return None
    return Exported(
        request.to,
        folder,
        proof["dtype"],
        _size(folder),
        proof,
        notes=["it was exported before; nothing was written now"],
    )


def _default_folder(tuned: Tuned, kind: Kind) -> Path:
    if tuned.run is not None:
        return tuned.run.path / kind.replace("adapter", "adapter-export")
    return runs_root() / "exports" / f"{tuned.folder.resolve().name}-{kind}"


def _require_free(folder: Path, request: Request) -> None:
    if folder.exists() and not request.overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError.of(
            Fault(
                str(folder),
                "something there already",
                "a new or empty folder",
                "choose another --out, or add --overwrite",
            )
        )


def _require_room(folder: Path, needed: int) -> None:
    """Fail before an hour of work rather than after it."""
    existing = next(p for p in [folder, *folder.resolve().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StorageError(
            "the export does not fit on this disk",
            [
                Fault(
                    str(folder),
                    f"{free / 1e9:.1f} GB free",
                    f"{needed / 1e9:.1f} GB",
                    "free some space or choose another --out",
                )
            ],
        )


def _to_merged(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    dtype = None if request.dtype is None else _float(request.dtype)
    tell("stage", name="plan", text="reading the headers of base and adapter")
    plan = plan_of(tuned, request.onto)
    _require_room(folder, bytes_of(plan, dtype))
    clock = _Clock()
    reference = clock.time("ask", lambda: _reference(tuned, request, tell))
    written = str(dtype or stored_dtype(tuned)).removeprefix("torch.")
    with staged_folder(folder) as staged:
        tell("stage", name="merge", text=f"merging {plan.changed} tensors into {written}")
        clock.time(
            "write",
            lambda: write_merged(
                tuned,
                plan,
                staged,
                dtype=dtype,
                base_name=request.base_name,
                progress=_told(plan, tell),
            ),
        )
        tell("stage", name="prove", text="reading it back and comparing")
        proof = clock.time(
            "prove", lambda: _prove_folder(tuned, reference, staged, kind="merged", dtype=written)
        )
        _describe(tuned, request, staged, folder, proof)
    return Exported(
        "merged", folder, written, _size(folder), proof.as_dict(), seconds=clock.seconds
    )


def _to_adapter(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    if tuned.adapter is None:
        raise UserError.of(
            Fault(
                tuned.name,
                "a model that was trained whole",
                "an adapter",
                "export it with --to merged, gguf, ollama or vllm",
            )
        )
    _require_room(folder, tuned.adapter.bytes)
    clock = _Clock()
    reference = clock.time("ask", lambda: _reference(tuned, request, tell))
    with staged_folder(folder) as staged:
        copy_adapter(tuned, staged)
        tell("stage", name="prove", text="reading it back and comparing")
        copied = replace(tuned, folder=staged)
        proof = clock.time(
            "prove",
            lambda: _prove_folder(copied, reference, staged, kind="adapter", dtype="float32"),
        )
        name_base(staged, request.base_name)
        _describe(tuned, request, staged, folder, proof)
    return Exported(
        "adapter", folder, "float32", _size(folder), proof.as_dict(), seconds=clock.seconds
    )


def _to_server(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    """The adapter as vLLM or SGLang reads it. Raises ModelError where it must be merged (T15)."""
    if tuned.adapter is None or tuned.card is None:
        raise UserError.of(
            Fault(
                tuned.name,
                "a model that was trained whole" if tuned.card else "no tanren.json",
                "the adapter of a run",
                "export it with --to merged: these servers take whole models as they are",
            )
        )
    server: Literal["vllm", "sglang"] = "vllm" if request.to == "vllm" else "sglang"
    clock = _Clock()
    proof: dict[str, Any] = {}

    def finish(staged: Path, served: ServedAdapter) -> None:
        """The reference is taken here: an adapter that the server refuses costs no waiting."""
        reference = clock.time("ask", lambda: _reference(tuned, request, tell))
        tell("stage", name="prove", text="reading it back and comparing")
        found = clock.time(
            "prove",
            lambda: _prove_folder(
                replace(tuned, folder=staged), reference, staged, kind=request.to, dtype="float32"
            ),
        )
        name_base(staged, request.base_name)
        _describe(tuned, request, staged, folder, found)
        proof.update(found.as_dict())

    tell("stage", name="write", text=f"writing the adapter as {request.to} reads it")
    served = write_served_adapter(tuned.folder, folder, server=server, finish=finish)
    notes = [*served.notes, *(f"folded: {text}" for text in served.folded)]
    if served.left_out:
        notes.append(f"settings of training that were left out: {', '.join(served.left_out)}")
    return Exported(
        request.to,
        folder,
        "float32",
        _size(folder),
        proof,
        [f"{command.title}: {command.line}" for command in served.commands],
        notes,
        clock.seconds,
    )


def _describe(
    tuned: Tuned,
    request: Request,
    staged: Path,
    folder: Path,
    proof: ExportProof,
    *,
    weights: Sequence[str] = (),
) -> None:
    """Proof, model card and the base's licence beside the weights; a failed proof ends it all."""
    proofs.require(proof, folder)
    write_json(staged / "proof.json", proof.as_dict())
    base = tuned.source.path if tuned.source is not None else None
    facts = card_facts(
        tuned.folder,
        kind="vllm" if request.to == "sglang" else request.to,
        run=tuned.run,
        base=base,
        base_name=request.base_name,
        proof=proof.as_dict(),
        weights=weights,
    )
    write_text(staged / "README.md", model_card(facts))
    if base is not None:
        copy_licence(base, staged)


def _reference(tuned: Tuned, request: Request, tell: Teller) -> Reference:
    tell("stage", name="ask", text="letting the tuned model answer, to compare with")
    return take_reference(tuned, prompts=request.prompts, original=request.onto == "original")


def _prove_folder(
    tuned: Tuned, reference: Reference, folder: Path, *, kind: Kind, dtype: str
) -> ExportProof:
    """Read a folder with plain transformers (and PEFT), and compare."""
    if kind != "merged":
        model, reader = tuned.load(), f"peft {peft.__version__}"
    else:
        model = models.load_whole(folder, dtype=tuned.dtype)
        reader = f"transformers {transformers.__version__}"
    tokenizer = models.load_tokenizer_from(folder)
    renderer = ChatRenderer(tokenizer)
    found = answers_of(model, tokenizer, renderer, reference.conversations)
    logits = proofs.logits_on(model, reference.said.probes)
    stops = models.base_of(model).generation_config.eos_token_id
    del model
    release()
    return compare(
        tuned,
        reference,
        found,
        logits,
        kind=kind,
        dtype=dtype,
        reader=reader,
        stops=stops,
        prompts=_prompts_through(tokenizer, tuned),
    )


def compare(
    tuned: Tuned,
    reference: Reference,
    found: Said,
    logits: tuple[torch.Tensor, ...],
    *,
    kind: Kind,
    dtype: str,
    reader: str,
    stops: int | list[int] | None,
    prompts: str,
) -> ExportProof:
    """All measurements put together and judged."""
    coarser = "bfloat16" if tuned.dtype == torch.bfloat16 and dtype == "float32" else dtype
    expected = sorted(tuned.generation()["eos_token_id"])
    return proofs.judge(
        ExportProof(
            passed=False,
            kind=kind,
            reader=reader,
            compared_with=reference.compared_with,
            dtype=dtype,
            computed_in=str(tuned.dtype).removeprefix("torch."),
            prompts=len(reference.conversations),
            prompts_from=reference.prompts_from,
            positions=sum(len(part) for part in reference.expected),
            distance=distance(reference.expected, logits),
            moved=reference.moved,
            others=dict(reference.others),
            tolerance=TOLERANCES.get(coarser, TOLERANCES["fewer bits"]),
            greedy_agreement=proofs.greedy_agreement(reference.said, found),
            stopped=proofs.stopped(found),
            stop_ids={
                "tuned": expected,
                "export": sorted([stops] if isinstance(stops, int) else stops or []),
            },
            prompt_ids_equal=prompts,
        )
    )


def _prompts_through(tokenizer: Any, tuned: Tuned) -> str:
    """How many of the built-in conversations the export's own tokenizer and template turn into the
    same ids as training did, as "equal/all"; what the template refuses must be refused by both.
    """
    tokenizer.model_max_length = 1 << 30  # nobody feeds the longest of them to the model
    equal = 0
    for conversation in CONVERSATIONS:
        ours = _ids(lambda c=conversation: tuned.renderer.prompt_ids(c.messages))  # type: ignore[misc]
        theirs = _ids(
            lambda c=conversation: tokenizer.apply_chat_template(  # type: ignore[misc]
                c.messages, add_generation_prompt=True, return_dict=False
            )
        )
        equal += ours == theirs
    return f"{equal}/{len(CONVERSATIONS)}"


def _ids(render: Callable[[], Sequence[int]]) -> list[int] | None:
    import jinja2

    try:
        return list(render())
    except (UserError, jinja2.TemplateError):
        return None


def _float(name: str) -> torch.dtype:
    if name not in FLOATS:
        raise UserError.of(
            Fault(
                "--dtype",
                repr(name),
                ", ".join(FLOATS),
                "choose one of these, or --to gguf for fewer bits",
            )
        )
    return FLOATS[name]


def _told(plan: Any, tell: Teller) -> Callable[[str, int], None]:
    done, total = 0, plan.checkpoint.bytes

    def progress(name: str, size: int) -> None:
        nonlocal done
        done += size
        tell("progress", done=done, total=total, unit="bytes", name=name)

    return progress


class _Clock:
    """Seconds by the name of what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        value = work()
        self.seconds[name] = time.perf_counter() - began
        return value


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


_WRITERS: dict[Kind, Callable[[Tuned, Request, Path, Teller], Exported]] = {
    "merged": _to_merged,
    "adapter": _to_adapter,
    "vllm": _to_server,
    "sglang": _to_server,
}

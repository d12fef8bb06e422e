"""Exports for llama.cpp and Ollama: one GGUF file, what reads it back, and what to type."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize

from tanren.errors import Fault, ProofError, UserError
from tanren.export import gguf
from tanren.export import proof as proofs
from tanren.export.gguf import GgufFile, GgufType, Likeness
from tanren.export.merged import (
    bytes_of,
    plan_of,
    stored_dtype,
    tokenized_base,
    write_merged,
)
from tanren.export.numbers_proof import require_memory
from tanren.export.ollama import write_ollama
from tanren.export.proof import ExportProof, answers_of
from tanren.export.proving import ask_tuned, compare, describe, prompts_through, rendered
from tanren.export.reference import Reference, release
from tanren.export.request import Clock, Exported, Request, Step, Teller, require_room, size_of
from tanren.export.safetensors_exports import told
from tanren.export.tuned import Tuned
from tanren.export.vllm import default_name
from tanren.model import context_length
from tanren.rundir import staged_folder
from tanren.template import ChatRenderer

MOST_CONTEXT = 8192
"""Ollama keeps the cache of `num_ctx` tokens in memory, used or not: 1 GB for an 8 B model."""

_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """`written` by us, and then made smaller to `quant` by llama.cpp where that was asked for."""

    written: GgufType
    quant: str | None

    @property
    def name(self) -> str:
        return self.quant or self.written.value

    @property
    def merged(self) -> torch.dtype | None:
        """The type to merge into first; None: the base's own, finer than what is made of it."""
        exact = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
        return exact.get(self.written.value) if self.quant is None else None


def _wanted(tuned: Tuned, dtype: str | None) -> _Wanted:
    """What `--dtype` asks for. Raises UserError for a type that GGUF has not."""
    own = GgufType(_NAMES.get(str(stored_dtype(tuned)).removeprefix("torch."), "f32"))
    if dtype is None:
        return _Wanted(own, None)
    name = _NAMES.get(dtype, dtype).lower()
    if name in set(GgufType):
        return _Wanted(GgufType(name), None)
    if name.upper() in gguf.QUANT_KINDS:
        return _Wanted(own, name)
    raise UserError.of(
        Fault(
            "--dtype",
            repr(dtype),
            ", ".join([*GgufType, *(kind.lower() for kind in gguf.QUANT_KINDS)]),
            "choose one of them",
        )
    )


def to_gguf(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    """One GGUF file with tokenizer and template, read back by transformers and by llama.cpp."""
    clock = Clock()
    with staged_folder(folder) as staged:
        made = _made(tuned, request, folder, staged, clock, tell)
        proofs.require(made.proof, folder)
        proven = describe(tuned, request, staged, made.proof.as_dict(), weights=[made.file.name])
    path = shlex.quote(str(folder / made.file.name))
    serve = Step("serve it with llama.cpp", f"llama-server -m {path} --jinja")
    commands = [serve, *made.commands]
    return _exported(request, folder, made, proven, commands, clock)


def to_ollama(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    """GGUF and Modelfile. The template is proven before the long work begins."""
    clock = Clock()
    name = _model_name(tuned)
    with staged_folder(folder) as staged:
        made = _made(tuned, request, folder, staged, clock, tell)
        tell("stage", name="template", text="translating the chat template and proving it")
        ollama = write_ollama(
            staged,
            made.file,
            tuned.renderer,
            name=name,
            system=request.system,
            context_length=min(context_length(tuned.settings), MOST_CONTEXT),
            generation_config=tuned.generation(),
        )
        made.proof.facts["template"] = ollama.proof.as_dict()
        made.notes += ollama.notes
        if context_length(tuned.settings) > MOST_CONTEXT:
            made.notes.append(
                f"num_ctx is {MOST_CONTEXT}: Ollama keeps memory for all of it; the model itself "
                f"reaches {context_length(tuned.settings):,} tokens"
            )
        proofs.require(made.proof, folder)
        proven = describe(
            tuned,
            request,
            staged,
            made.proof.as_dict(),
            weights=[made.file.name],
            commands=(shlex.join(ollama.command), f"ollama run {name}"),
        )
    line = f"cd {shlex.quote(str(folder))} && {shlex.join(ollama.command)}"
    create = Step("make it known to Ollama", line)
    return _exported(request, folder, made, proven, [create, *made.commands], clock)


def to_gguf_lora(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    """The adapter alone, for a base that is a GGUF file already. It is proven on a GGUF file of the
    base that is made for that and removed again. Raises ModelError for what the format cannot hold.
    """
    if tuned.adapter is None:
        raise UserError.of(
            Fault(tuned.name, "a model that was trained whole", "an adapter", "use --to gguf")
        )
    plan_of(tuned, request.onto)  # does it fit its base, and is it whole?
    wanted = _wanted(tuned, request.dtype or "f32")
    if wanted.quant is not None:
        raise UserError.of(
            Fault(
                "--dtype",
                repr(request.dtype),
                ", ".join(GgufType),
                "choose one of them: llama.cpp quantises no adapters",
            )
        )
    clock = Clock()
    with staged_folder(folder) as staged:
        target = staged / f"{_model_name(tuned)}-lora-{wanted.written.value}.gguf"
        tell("stage", name="write", text=f"writing the adapter in {wanted.written.value}")
        written = clock.time(
            "write",
            lambda: gguf.write_lora_gguf(
                tuned.folder, tuned.model_folder, target, type=wanted.written
            ),
        )
        require_room(folder, tuned.checkpoint.elements * 4)
        require_memory(tuned, 4)
        on_original = replace(request, onto="original")
        reference = clock.time("ask", lambda: ask_tuned(tuned, on_original, tell))
        tell("stage", name="prove", text="applying it to the base as llama.cpp does")
        proof = clock.time(
            "prove", lambda: _prove_lora(tuned, reference, target, wanted.written.value, request)
        )
        proofs.require(proof, folder)
        proven = describe(tuned, request, staged, proof.as_dict(), weights=[target.name])
    path = shlex.quote(str(folder / target.name))
    line = f"llama-server -m BASE.gguf --lora {path} --jinja"
    commands = [Step("serve it on its base with llama.cpp", line)]
    made = _Made(target, wanted.name, proof, [], list(written.notes))
    return _exported(request, folder, made, proven, commands, clock)


def _prove_lora(
    tuned: Tuned, reference: Reference, adapter: Path, dtype: str, request: Request
) -> ExportProof:
    base = adapter.with_name(".base.gguf")
    folder = tokenized_base(tuned, adapter.parent)
    written = gguf.write_gguf(
        folder,
        base,
        type=GgufType.F32,
        prompts=_prompts_that_fit(tuned),
        adds_bos=_adds_bos(tuned),
    )
    likeness = written.likeness
    assert likeness is not None
    theirs = None
    if gguf.find_python() is not None:
        theirs = _through_llama_cpp(tuned, reference, base, dtype, request, lora=adapter)
    _apply_as_llama_cpp(adapter, base)
    ours = (
        _through_transformers(tuned, reference, base, likeness, dtype, request)
        if written.transformers_reads_it
        else None
    )
    base.unlink()
    shutil.rmtree(folder)
    return _both(ours, theirs, written)


def _apply_as_llama_cpp(adapter: Path, base: Path) -> None:
    """Add alpha / rank * B A to each tensor of a float32 file that the adapter names, in place."""
    reader = GGUFReader(adapter)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    factors = {tensor.name: tensor for tensor in reader.tensors}
    for tensor in GGUFReader(base, "r+").tensors:
        a = factors.get(f"{tensor.name}.lora_a")
        if a is None:
            continue
        b = factors[f"{tensor.name}.lora_b"]
        left, right = (dequantize(part.data, part.tensor_type) for part in (b, a))
        numbers = tensor.data  # a view of the file
        numbers += (alpha / right.shape[0]) * (left @ right)


@dataclass
class _Made:
    file: Path
    dtype: str
    proof: ExportProof
    commands: list[Step]
    notes: list[str]


def _made(
    tuned: Tuned, request: Request, folder: Path, staged: Path, clock: Clock, tell: Teller
) -> _Made:
    """The GGUF file in `staged`, proven. The merged model that it is made from is removed again."""
    wanted = _wanted(tuned, request.dtype)
    tell("stage", name="plan", text="reading the headers of base and adapter")
    plan = plan_of(tuned, request.onto)
    require_room(folder, 2 * bytes_of(plan, wanted.merged))
    require_memory(tuned, 4)
    reference = clock.time("ask", lambda: ask_tuned(tuned, request, tell))
    merged = staged / ".merged"
    merged.mkdir()
    tell("stage", name="merge", text=f"merging {plan.changed} tensors")
    clock.time(
        "merge",
        lambda: write_merged(tuned, plan, merged, dtype=wanted.merged, progress=told(plan, tell)),
    )
    target = staged / f"{_model_name(tuned)}-{wanted.written.value}.gguf"
    tell("stage", name="write", text=f"writing GGUF in {wanted.written.value}")
    written = clock.time(
        "write",
        lambda: gguf.write_gguf(
            merged,
            target,
            type=wanted.written,
            prompts=_prompts_that_fit(tuned),
            adds_bos=_adds_bos(tuned),
        ),
    )
    shutil.rmtree(merged)
    made, commands, notes = target, list[Step](), [*written.notes, *_left_out(written)]
    if wanted.quant is not None:
        made, commands, notes = _smaller(target, wanted, folder, notes, clock, tell)
    dtype = wanted.name if made != target or wanted.quant is None else wanted.written.value
    tell("stage", name="prove", text="reading it back and comparing")
    proof = clock.time("prove", lambda: _prove(tuned, reference, made, written, dtype, request))
    return _Made(made, dtype, proof, commands, notes)


def _prompts_that_fit(tuned: Tuned) -> list[str]:
    """Built-in conversations as prompts, without those that this model has no room for."""
    most = context_length(tuned.settings)
    texts = [text for text in rendered(tuned) if text is not None]
    return [text for text in texts if len(tuned.renderer.token_ids(text)) < most]


def _adds_bos(tuned: Tuned) -> bool | None:
    """False where the tokenizer begins plain text with a BOS and the template writes none (T17)."""
    return False if tuned.renderer.facts.bos_left_out else None


def _left_out(written: GgufFile) -> list[str]:
    if not written.left_out:
        return []
    return [f"tensors that the format has no place for: {', '.join(written.left_out)}"]


def _smaller(
    source: Path, wanted: _Wanted, folder: Path, notes: list[str], clock: Clock, tell: Teller
) -> tuple[Path, list[Step], list[str]]:
    """The quantised file in the source's place; the source and the command where no llama.cpp is
    there.
    """
    assert wanted.quant is not None
    target = source.with_name(source.name.replace(f"-{wanted.written.value}.", f"-{wanted.quant}."))
    tell("stage", name="quantise", text=f"making {wanted.quant} with llama.cpp")
    if clock.time("quantise", lambda: gguf.quantise(source, target, str(wanted.quant))):
        source.unlink()
        return target, [], notes
    command = gguf.quantise_command(folder / source.name, folder / target.name, wanted.quant)
    note = f"no llama.cpp was found, so this is {wanted.written.value}; its command stands below"
    return source, [Step("make it smaller, where llama.cpp is", command)], [*notes, note]


def _prove(
    tuned: Tuned,
    reference: Reference,
    file: Path,
    written: GgufFile,
    dtype: str,
    request: Request,
) -> ExportProof:
    """Compare through transformers' GGUF reader, and through llama.cpp where it is installed."""
    likeness = written.likeness
    assert likeness is not None
    theirs = None
    if gguf.find_python() is not None:
        theirs = _through_llama_cpp(tuned, reference, file, dtype, request)
    ours = (
        _through_transformers(tuned, reference, file, likeness, dtype, request)
        if written.transformers_reads_it
        else None
    )
    return _both(ours, theirs, written)


def _both(ours: ExportProof | None, theirs: ExportProof | None, written: GgufFile) -> ExportProof:
    """What transformers and llama.cpp found as one proof; both must have passed."""
    if ours is None and theirs is None:
        raise ProofError(
            "this file cannot be proven here",
            [
                Fault(
                    written.path.name,
                    f"the architecture {written.architecture}, which transformers does not read "
                    "from GGUF",
                    "a reader",
                    "pip install llama-cpp-python, or name an interpreter that has it in "
                    f"{gguf.PYTHON_VARIABLE}",
                )
            ],
        )
    if ours is None or theirs is None:
        return ours or theirs  # type: ignore[return-value]
    ours.facts["llama.cpp"] = theirs.as_dict()
    ours.failures += [f"llama.cpp: {failure}" for failure in theirs.failures]
    ours.passed = not ours.failures
    return ours


def _through_transformers(
    tuned: Tuned,
    reference: Reference,
    file: Path,
    likeness: Likeness,
    dtype: str,
    request: Request,
) -> ExportProof:
    """Logits and answers of the model that transformers reads from the file. Its tokenizer too,
    where it is of the byte-level kind; of SentencePiece's kind it guesses the rules for white space
    otherwise than llama.cpp, so there llama.cpp's tokens are the ones worked out before writing.
    """
    model = gguf.read_model(file)
    tokenizer, renderer = tuned.tokenizer, tuned.renderer
    prompts = f"{likeness.probes - len(likeness.differences)}/{likeness.probes}"
    if likeness.model == "gpt2" and likeness.exact:
        tokenizer = gguf.read_tokenizer(file)
        renderer = ChatRenderer(tokenizer)
        prompts = prompts_through(tokenizer, tuned)
    found = answers_of(model, tokenizer, renderer, reference.conversations)
    logits = proofs.logits_on(model, reference.said.probes)
    del model
    release()
    return compare(
        tuned,
        reference,
        found,
        logits,
        kind=request.to,
        dtype=dtype,
        reader=f"transformers {transformers.__version__} from GGUF",
        stops=_ours(tuned, gguf.stop_ids(gguf.read_metadata(file)[0])),
        expected_stops=tuned.renderer.facts.stop_ids,
        prompts=prompts,
    )


def _through_llama_cpp(
    tuned: Tuned,
    reference: Reference,
    file: Path,
    dtype: str,
    request: Request,
    *,
    lora: Path | None = None,
) -> ExportProof:
    """llama.cpp's own logits, prompt ids and stops. It writes no answers here: greedy agreement is
    judged by its likeliest tokens along the tuned model's answers.
    """
    texts = _prompts_that_fit(tuned)
    answer = gguf.ask_llama_cpp(file, reference.said.probes, texts, lora=lora)
    logits = tuple(torch.from_numpy(part[-proofs.COMPARED_TOKENS :]) for part in answer.logits)
    wanted = [tuple(tuned.renderer.token_ids(text)) for text in texts]
    equal = sum(a == b for a, b in zip(wanted, answer.ids, strict=True))
    return compare(
        tuned,
        reference,
        None,
        logits,
        kind=request.to,
        dtype=dtype,
        reader="llama.cpp",
        stops=_ours(tuned, answer.stops),
        expected_stops=tuned.renderer.facts.stop_ids,
        prompts=f"{equal}/{len(texts)}",
    )


def _ours(tuned: Tuned, stops: Sequence[int]) -> list[int]:
    """Of a file's stops those that end a reply of this template: llama.cpp knows others by name."""
    return [stop for stop in stops if stop in tuned.renderer.facts.stop_ids]


def _model_name(tuned: Tuned) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", default_name(tuned.folder).lower()).strip("-._")
    return name or "model"


def _exported(
    request: Request,
    folder: Path,
    made: _Made,
    proof: dict[str, Any],
    commands: Sequence[Step],
    clock: Clock,
) -> Exported:
    return Exported(
        request.to,
        folder,
        made.dtype,
        size_of(folder),
        proof,
        commands,
        made.notes,
        clock.seconds,
    )

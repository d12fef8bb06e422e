"""Exports in safetensors: whole weights, plain adapters, adapters as servers read them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from tanren.errors import Fault, UserError
from tanren.export.merge.checkpoint import Checkpoint
from tanren.export.merge.plan import MergePlan
from tanren.export.merged import (
    FLOATS,
    bytes_of,
    copy_adapter,
    name_base,
    plan_of,
    stored_dtype,
    write_merged,
)
from tanren.export.numbers_proof import NumbersProof, prove_numbers, require_memory
from tanren.export.numbers_proof import require as require_numbers
from tanren.export.proof import ExportProof, require
from tanren.export.proving import ask_tuned, describe, prompts_through, prove_folder
from tanren.export.reference import Reference
from tanren.export.request import Clock, Exported, Request, Step, Teller, require_room, size_of
from tanren.export.serve_commands import merged_commands
from tanren.export.settings import copy_tokenizer, write_settings
from tanren.export.tuned import Tuned
from tanren.export.vllm import ServedAdapter, write_served_adapter
from tanren.model import load_tokenizer_from
from tanren.rundir import staged_folder


def to_merged(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    dtype = None if request.dtype is None else _float(request.dtype)
    tell("stage", name="plan", text="reading the headers of base and adapter")
    plan = plan_of(tuned, request.onto)
    require_room(folder, bytes_of(plan, dtype))
    if request.proof == "answers":
        require_memory(tuned, tuned.dtype.itemsize)
    clock = Clock()
    reference = None
    if request.proof == "answers":
        reference = clock.time("ask", lambda: ask_tuned(tuned, request, tell))
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
                progress=told(plan, tell),
            ),
        )
        tell("stage", name="prove", text="reading it back and comparing")
        proof = clock.time(
            "prove", lambda: _prove_merged(tuned, plan, reference, staged, folder, written)
        )
        proven = describe(tuned, request, staged, proof.as_dict())
    commands = [Step("talk to it", f"tanren chat {shlex.quote(str(folder))}")]
    if tuned.card is not None:
        commands += [Step(command.title, command.line) for command in merged_commands(folder)]
    return Exported(
        "merged", folder, written, size_of(folder), proven, commands, seconds=clock.seconds
    )


def _prove_merged(
    tuned: Tuned,
    plan: MergePlan,
    reference: Reference | None,
    staged: Path,
    folder: Path,
    dtype: str,
) -> ExportProof | NumbersProof:
    """By what the model says, or where it is too large for that by its numbers."""
    if reference is None:
        numbers = prove_numbers(
            plan,
            staged,
            dtype=dtype,
            stop_ids=_stops_on_disk(tuned, staged),
            prompt_ids_equal=prompts_through(load_tokenizer_from(staged), tuned),
        )
        numbers.failures += _misfits(staged)
        numbers.passed = not numbers.failures
        require_numbers(numbers, folder)
        return numbers
    proof = prove_folder(tuned, reference, staged, kind="merged", dtype=dtype)
    require(proof, folder)
    return proof


def _stops_on_disk(tuned: Tuned, folder: Path) -> dict[str, list[int]]:
    stops = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    found = [stops] if isinstance(stops, int) else stops or []
    return {"tuned": sorted(tuned.generation()["eos_token_id"]), "export": sorted(found)}


def _misfits(folder: Path) -> list[str]:
    """Layers that config.json asks for and the files lack, or have in another shape."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stored = Checkpoint(folder)
    head = set() if not config.get_text_config().tie_word_embeddings else {"lm_head.weight"}
    wanted = {n: tuple(p.shape) for n, p in model.named_parameters() if ".experts." not in n}
    found = {
        name.replace(".block_sparse_moe.", ".mlp."): place.shape
        for name, place in stored.places.items()
    }
    prefix = f"{model.base_model_prefix}."
    wrong = [
        name
        for name, shape in wanted.items()
        if name not in head and found.get(name, found.get(name.removeprefix(prefix))) != shape
    ]
    return (
        [f"{len(wrong)} tensors do not fit config.json, the first is {wrong[0]}"] if wrong else []
    )


def to_adapter(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
    if tuned.adapter is None:
        raise UserError.of(
            Fault(
                tuned.name,
                "a model that was trained whole",
                "an adapter",
                "export it with --to merged, gguf, ollama or vllm",
            )
        )
    plan_of(tuned, request.onto)  # does it fit its base, and is it whole?
    require_room(folder, tuned.adapter.bytes)
    require_memory(tuned, tuned.dtype.itemsize)
    clock = Clock()
    reference = clock.time("ask", lambda: ask_tuned(tuned, request, tell))
    with staged_folder(folder) as staged:
        copy_adapter(tuned, staged)
        if not (staged / "tokenizer.json").is_file():  # plain PEFT: the tokenizer is the base's
            copy_tokenizer(tuned.model_folder, staged, tuned.template)
            write_settings(staged / "generation_config.json", tuned.generation())
        tell("stage", name="prove", text="reading it back and comparing")
        copied = replace(tuned, folder=staged)
        proof = clock.time(
            "prove",
            lambda: prove_folder(copied, reference, staged, kind="adapter", dtype="float32"),
        )
        name_base(staged, request.base_name)
        require(proof, folder)
        proven = describe(tuned, request, staged, proof.as_dict())
    return Exported("adapter", folder, "float32", size_of(folder), proven, seconds=clock.seconds)


def to_server(tuned: Tuned, request: Request, folder: Path, tell: Teller) -> Exported:
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
    plan_of(tuned, request.onto)  # does it fit its base, and is it whole?
    require_memory(tuned, tuned.dtype.itemsize)
    server: Literal["vllm", "sglang"] = "vllm" if request.to == "vllm" else "sglang"
    clock = Clock()
    proof: dict[str, Any] = {}

    def finish(staged: Path, served: ServedAdapter) -> None:
        """The reference is taken here: an adapter that the server refuses costs no waiting."""
        reference = clock.time("ask", lambda: ask_tuned(tuned, request, tell))
        tell("stage", name="prove", text="reading it back and comparing")
        found = clock.time(
            "prove",
            lambda: prove_folder(
                replace(tuned, folder=staged), reference, staged, kind=request.to, dtype="float32"
            ),
        )
        name_base(staged, request.base_name)
        require(found, folder)
        proof.update(describe(tuned, request, staged, found.as_dict()))

    tell("stage", name="write", text=f"writing the adapter as {request.to} reads it")
    served = write_served_adapter(tuned.folder, folder, server=server, finish=finish)
    notes = [*served.notes, *(f"folded: {text}" for text in served.folded)]
    if served.left_out:
        notes.append(f"settings of training that were left out: {', '.join(served.left_out)}")
    return Exported(
        request.to,
        folder,
        "float32",
        size_of(folder),
        proof,
        [Step(command.title, command.line) for command in served.commands],
        notes,
        clock.seconds,
    )


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


def told(plan: MergePlan, tell: Teller) -> Callable[[str, int], None]:
    done, total = 0, plan.checkpoint.bytes

    def progress(name: str, size: int) -> None:
        nonlocal done
        done += size
        tell("progress", done=done, total=total, unit="bytes", name=name)

    return progress

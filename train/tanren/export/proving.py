"""Reading an export back and comparing it with the tuned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers

from tanren import model as models
from tanren.errors import UserError
from tanren.export import proof as proofs
from tanren.export.card import model_card
from tanren.export.card_facts import Kind as CardKind
from tanren.export.card_facts import card_facts
from tanren.export.licence import copy_licence
from tanren.export.ollama.conversations import CONVERSATIONS
from tanren.export.proof import TOLERANCES, ExportProof, Said, answers_of, distance
from tanren.export.reference import Reference, release, take_reference
from tanren.export.request import Kind, Request, Teller, asked_for
from tanren.export.tuned import Tuned
from tanren.rundir import write_json, write_text
from tanren.template import ChatRenderer

# What the card calls kinds of export that are written alike.
_CARD_KINDS: Mapping[Kind, CardKind] = {
    "merged": "merged",
    "adapter": "adapter",
    "gguf": "gguf",
    "gguf-lora": "adapter",
    "ollama": "ollama",
    "vllm": "vllm",
    "sglang": "vllm",
}
# What GGUF calls the types of numbers.
_PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def ask_tuned(tuned: Tuned, request: Request, tell: Teller) -> Reference:
    tell("stage", name="ask", text="letting the tuned model answer, to compare with")
    return take_reference(tuned, prompts=request.prompts, original=request.onto == "original")


def prove_folder(
    tuned: Tuned, reference: Reference, folder: Path, *, kind: Kind, dtype: str
) -> ExportProof:
    """Read a folder with plain transformers (and PEFT), and compare."""
    if kind != "merged":
        model, reader = tuned.load(), f"peft {version('peft')}"
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
        prompts=prompts_through(tokenizer, tuned),
    )


def compare(
    tuned: Tuned,
    reference: Reference,
    found: Said | None,
    logits: tuple[torch.Tensor, ...],
    *,
    kind: Kind,
    dtype: str,
    reader: str,
    stops: int | Sequence[int] | None,
    prompts: str,
    expected_stops: Sequence[int] | None = None,
) -> ExportProof:
    """All measurements put together and judged. `found` None: the reader wrote no answers."""
    precision = _PRECISIONS.get(dtype, dtype)
    if tuned.dtype == torch.bfloat16 and precision in ("float32", "float16"):
        precision = "bfloat16"  # both sides were computed with its noise
    expected = sorted(expected_stops or tuned.generation()["eos_token_id"])
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
            distance=distance(reference.expected, logits, tie=proofs.tie_of(tuned.dtype)),
            moved=reference.moved,
            others=dict(reference.others),
            tolerance=TOLERANCES.get(precision, TOLERANCES["fewer bits"]),
            greedy_agreement=None
            if found is None
            else proofs.greedy_agreement(reference.said, found),
            stopped=None if found is None else proofs.stopped(found),
            stop_ids={
                "tuned": expected,
                "export": sorted([stops] if isinstance(stops, int) else stops or []),
            },
            prompt_ids_equal=prompts,
        )
    )


def prompts_through(tokenizer: Any, tuned: Tuned) -> str:
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


def rendered(tuned: Tuned) -> list[str | None]:
    """Prompts of the built-in conversations; None where the template refuses one."""
    texts: list[str | None] = []
    for conversation in CONVERSATIONS:
        try:
            texts.append(tuned.renderer.prompt(conversation.messages))
        except UserError:
            texts.append(None)
    return texts


def _ids(render: Callable[[], Sequence[int]]) -> list[int] | None:
    try:
        return list(render())
    except (UserError, jinja2.TemplateError):
        return None


def describe(
    tuned: Tuned,
    request: Request,
    staged: Path,
    proof: Mapping[str, Any],
    *,
    weights: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> dict[str, Any]:
    """Proof, model card and the base's licence beside the weights; returns what proof.json says."""
    told = {**proof, "asked": asked_for(tuned, request)}
    write_json(staged / "proof.json", told)
    base = tuned.source.path if tuned.source is not None else None
    facts = card_facts(
        tuned.folder,
        kind=_CARD_KINDS[request.to],
        run=tuned.run,
        base=base,
        base_name=request.base_name,
        proof=proof,
        weights=weights,
        commands=commands,
    )
    write_text(staged / "README.md", model_card(facts))
    if base is not None:
        copy_licence(base, staged)
    return told

"""`tanren export`: a run's result, written for whoever serves it, with proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from tanren.cli.display import one_line, text
from tanren.cli.options import Json
from tanren.cli.output import Output, of
from tanren.cli.request import require_text, require_values
from tanren.errors import Fault, UserError

if TYPE_CHECKING:
    from tanren.export.exports import Exported, Request

To = Literal["merged", "adapter", "gguf", "gguf-lora", "ollama", "vllm", "sglang"]
# An adapter stays as it was trained: it has no other type, and is merged onto nothing.
_KEPT_TYPE = ("adapter", "vllm", "sglang")
_UNMERGED = (*_KEPT_TYPE, "gguf-lora")


def export(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(metavar="RUN|ADAPTER", help="A finished run, or a folder with an adapter."),
    ],
    to: Annotated[
        To,
        typer.Option(
            "--to",
            help="merged: whole weights for transformers, vLLM, SGLang; gguf: one file for "
            "llama.cpp; ollama: that file and a Modelfile; adapter: plain PEFT; vllm, sglang: the "
            "adapter as that server reads it; gguf-lora: the adapter as llama.cpp reads it.",
        ),
    ] = "merged",
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Folder to make (default: in the run's folder)."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype",
            metavar="TYPE",
            help="merged: float32, bfloat16, float16; gguf and ollama: f32, bf16, f16, q8_0, and "
            "where llama.cpp is installed q4_k_m and others; gguf-lora: f32, bf16, f16, q8_0. "
            "(default: the base's own; gguf-lora: f32)",
        ),
    ] = None,
    onto: Annotated[
        Literal["trained", "nf4", "original"],
        typer.Option(
            "--onto",
            help="The base to merge onto. trained: the one the adapter saw (for QLoRA: read back "
            "from 4 bits); original: the base's own files; nf4: as if trained in 4 bits.",
        ),
    ] = "trained",
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="Where the base lies now, if it was moved."),
    ] = None,
    base_name: Annotated[
        str | None,
        typer.Option(
            "--base-name", metavar="NAME", help="Public name of a base that is a folder here."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="ollama: the system message.")
    ] = None,
    prompts: Annotated[
        int, typer.Option("--prompts", min=1, metavar="N", help="Conversations of the proof.")
    ] = 8,
    proof: Annotated[
        Literal["answers", "numbers"],
        typer.Option(
            "--proof",
            help="answers: the tuned model and the export answer and are compared; numbers (merged "
            "only): for models that do not fit into memory, the written numbers are.",
        ),
    ] = "answers",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there, once the new is proven.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="Upload it to the Hugging Face Hub (private)."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: a new repository is public.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: show what would be sent; send nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a run's result for whoever serves it, read it back, and prove it.

    The export is read from disk by the reader that will use it and compared with
    the tuned model on some conversations: logits, answers, stop tokens, prompt
    ids. The proof lies beside the weights; where it fails, nothing is kept.

    \b
    tanren export runs/mine
    tanren export runs/mine --to gguf --dtype q8_0
    tanren export runs/mine --to ollama
    tanren export runs/mine --to merged --push me/my-model --dry-run
    """
    output = of(context)
    words = {
        "RUN|ADAPTER": run,
        "--out": out,
        "--dtype": dtype,
        "--base": base,
        "--base-name": base_name,
        "--system": system,
        "--push": push,
    }
    require_values(words)
    require_text(list(words.values()))
    _require_fitting(to, dtype, onto, system, proof, push, public, dry_run)
    with output.errors.status("starting"):
        from tanren.export.exports import Request
        from tanren.export.tuned import open_tuned

        request = Request(
            to=to,
            out=None if out is None else Path(out),
            dtype=dtype,
            onto=onto,
            prompts=prompts,
            overwrite=overwrite,
            base_name=base_name,
            system=system,
            proof=proof,
        )
        tuned = open_tuned(run, base=base, onto=onto)
    done = _already_there(tuned, request) if push is not None else None
    if done is None:
        done = _export(output, tuned, request)
    document = done.as_dict()
    lines: list[str] = []
    if push is not None:
        output.errors.print(text(f"exported and proven: {done.folder}"), soft_wrap=True)
        pushed = _push(output, done.folder, push, private=not public, dry_run=dry_run)
        document["push"] = pushed.as_dict()
        lines = list(pushed.lines())

    def show(console: Console) -> None:
        from tanren.cli.export_page import show_export, show_push

        show_export(console, done)
        show_push(console, lines)

    output.give(document, show)


def _require_fitting(
    to: str,
    dtype: str | None,
    onto: str,
    system: str | None,
    proof: str,
    push: str | None,
    public: bool,
    dry_run: bool,
) -> None:
    """Raise UserError with every option that has no meaning beside the others."""
    faults = []
    if dtype is not None and to in _KEPT_TYPE:
        found, remedy = f"{dtype} with --to {to}", "leave it away: an adapter keeps its type"
        faults.append(Fault("--dtype", found, "--to merged, gguf, gguf-lora or ollama", remedy))
    if onto == "original" and to in _UNMERGED:
        found, remedy = f"{onto} with --to {to}", "leave it away: nothing is merged"
        faults.append(Fault("--onto", found, "--to merged, gguf or ollama", remedy))
    if proof == "numbers" and to != "merged":
        found, remedy = f"numbers with --to {to}", "leave --proof away"
        faults.append(Fault("--proof", found, "--to merged", remedy))
    if system is not None and to != "ollama":
        faults.append(Fault("--system", f"--to {to}", "--to ollama", "leave --system away"))
    for name, given in (("--public", public), ("--dry-run", dry_run)):
        if given and push is None:
            faults.append(Fault(name, "no --push", "a repository", "add --push OWNER/NAME"))
    if push is not None:
        from tanren.export.push import name_faults

        faults += name_faults(push)
    if faults:
        raise UserError("the command cannot be carried out as written", faults)


def _already_there(tuned: Any, request: Request) -> Exported | None:
    """An export of this kind that was proven before is pushed as it is."""
    from tanren.export.exports import proven_before

    return None if request.overwrite else proven_before(tuned, request)


def _export(output: Output, tuned: Any, request: Request) -> Exported:
    from tanren.export.exports import export as carry_out

    with output.errors.status("starting") as status:

        def tell(event: str, /, **fields: Any) -> None:
            if event == "stage" and not output.errors.is_terminal:
                output.errors.print(text(f"{fields['name']}: {fields['text']}"), soft_wrap=True)
            elif event == "stage":
                status.update(text(one_line(fields["text"])))
            elif event == "progress":
                share = fields["done"] / max(fields["total"], 1)
                status.update(text(f"{share:.0%} of {fields['total'] / 1e9:.1f} GB"))

        return carry_out(tuned, request, tell)


def _push(output: Output, folder: Path, repo: str, *, private: bool, dry_run: bool) -> Any:
    from tanren.export.push import plan_push, push

    plan = plan_push(folder, repo, private=private)
    with output.errors.status(text(f"pushing to {repo}")) as status:
        return push(plan, dry_run=dry_run, tell=lambda words: status.update(text(one_line(words))))

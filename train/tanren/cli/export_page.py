"""An export as a page: where it lies, what the proof showed, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tanren.cli.display import count, counted, duration, facts, heading, number, shell, size, text

if TYPE_CHECKING:
    from tanren.export.exports import Exported


def show_export(console: Console, done: Exported) -> None:
    heading(console, f"Exported: {done.kind}")
    console.print(
        facts(
            [
                ("in", str(done.folder)),
                ("numbers", done.dtype),
                ("size", size(done.bytes)),
                ("took", duration(sum(done.seconds.values()))),
            ]
        )
    )
    show_proof(console, done.proof)
    for note in done.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    console.print()
    for command in done.commands or (f"tanren chat {shell(done.folder)}",):
        console.print(text(command), soft_wrap=True)


def show_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """The measurements in words; style tells whether they passed."""
    passed = proof.get("passed") is True
    words = f"proof {'passed' if passed else 'FAILED'}: {proof_words(proof)}"
    console.print(text(words, "bold green" if passed else "bold red"), soft_wrap=True)
    theirs = (proof.get("facts") or {}).get("llama.cpp")
    if theirs:
        console.print(text(f"  and {proof_words(theirs)}", "green"), soft_wrap=True)
    template = (proof.get("facts") or {}).get("template")
    if template:
        console.print(text(f"  {template_words(template)}", "green"), soft_wrap=True)
    for way, found in (proof.get("others") or {}).items():
        console.print(
            text(
                f"  {way}: KL {number(found['kl_mean'], '.1e')} from the tuned model, top-1 "
                f"{found['top1_agreement']:.1%}",
                "dim",
            ),
            soft_wrap=True,
        )


def proof_words(proof: Mapping[str, Any]) -> str:
    if "distance" not in proof:
        return _numbers_words(proof)
    distance = proof["distance"]
    moved = proof.get("moved")
    by = f" where tuning moved the base by {number(moved['kl_mean'], '.1e')}" if moved else ""
    greedy = proof.get("greedy_agreement")
    answers = (
        ""
        if greedy is None
        else f"{greedy:.0%} of {counted(proof['prompts'], 'answer')} are word for word; "
    )
    return (
        f"read back by {proof['reader']}, it is KL {number(distance['kl_mean'], '.1e')} from "
        f"{proof['compared_with']}{by}; the likeliest token agrees at "
        f"{distance['top1_agreement']:.1%} of {counted(proof['positions'], 'position')}; "
        f"{answers}prompt ids equal in {proof['prompt_ids_equal']}; stop tokens equal"
    )


def template_words(template: Mapping[str, Any]) -> str:
    """What became of the ten conversations on which a translated template is proven."""
    outcomes = [row["outcome"] for row in template["rows"]]
    equal, refused = outcomes.count("equal"), outcomes.count("refused")
    words = f"template: {equal} of {len(outcomes)} conversations character by character"
    return words + (f", {refused} refused by the chat template itself" if refused else "")


def _numbers_words(proof: Mapping[str, Any]) -> str:
    return (
        f"read back by {proof['reader']}, {count(proof['copied_tensors'])} tensors are the base's "
        f"byte for byte; {counted(proof['rows'], 'row')} of the {count(proof['changed_tensors'])} "
        f"merged ones were worked out again and are off by {proof['largest_rounding']:.2f} units "
        f"of the last place at most; the model did not answer"
    )

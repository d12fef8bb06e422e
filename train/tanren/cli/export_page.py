"""An export as a page: where it lies, what the proof showed, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tanren.cli.display import at, counted, duration, facts, heading, number, shell, size, text

if TYPE_CHECKING:
    from tanren.export.exports import Exported


# What `tanren chat` can open.
_TALKS = ("merged", "adapter", "vllm", "sglang")


def show_export(console: Console, done: Exported) -> None:
    heading(console, f"Exported: {done.kind}")
    took = [("took", duration(sum(done.seconds.values())))] if done.seconds else []
    about = [("in", str(done.folder)), ("type", done.dtype), ("size", size(done.bytes)), *took]
    console.print(facts(about))
    show_proof(console, done.proof)
    for note in done.notes:
        console.print(text(f"note: {note}", "yellow"), soft_wrap=True)
    talks = done.kind in _TALKS and not done.commands
    console.print()
    if talks:
        console.print(text(f"tanren chat {shell(done.folder)}"), soft_wrap=True)
    for step in done.commands:
        console.print(text(f"{step.title}:", "dim"))
        console.print(text(f"  {step.line}"), soft_wrap=True)


def show_push(console: Console, lines: Sequence[str]) -> None:
    """What was or would be sent; nothing where nobody asked for a push."""
    if lines:
        heading(console, "Push")
    for line in lines:
        console.print(text(line), soft_wrap=True)


def show_proof(console: Console, proof: Mapping[str, Any]) -> None:
    """The measurements in words; style tells whether they passed."""
    passed = proof.get("passed") is True
    against = f"read back from disk by {proof['reader']}, compared with {proof['compared_with']}"
    words = f"proof {'passed' if passed else 'FAILED'}: {against}"
    console.print(text(words, "bold green" if passed else "bold red"), soft_wrap=True)
    console.print(facts(proof_facts(proof)))
    theirs = at(proof, "facts", "llama.cpp")
    if theirs:
        console.print(text(f"and by {theirs['reader']}:", "green"), soft_wrap=True)
        console.print(facts(proof_facts({**theirs, "others": {}})))


def proof_facts(proof: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was measured, and how it came out."""
    if "distance" not in proof:
        return _numbers_facts(proof)
    distance, moved = proof["distance"], proof.get("moved")
    by = f"; tuning had moved the base by {number(moved['kl_mean'], '.1e')}" if moved else ""
    found = [
        ("distance", f"KL {number(distance['kl_mean'], '.1e')} nats a token{by}"),
        ("likeliest token", f"the same at {_share(proof, distance)}"),
    ]
    greedy = proof.get("greedy_agreement")
    if greedy is not None:
        same, total = round(greedy * proof["prompts"]), proof["prompts"]
        found.append(("answers", f"{same} of {total} word for word those of the tuned model"))
    found.append(("prompts", f"the same token ids in {proof['prompt_ids_equal']} conversations"))
    stops = proof["stop_ids"]
    same_stops = sorted(stops["tuned"]) == sorted(stops["export"])
    found.append(("stop tokens", "the same" if same_stops else f"others: {stops['export']}"))
    template = at(proof, "facts", "template")
    if template:
        found.append(("template", template_words(template)))
    for way, other in (proof.get("others") or {}).items():
        words = (
            f"the {way}: KL {number(other['kl_mean'], '.1e')} from the tuned model, likeliest "
            f"token the same at {other['top1_agreement']:.1%}"
        )
        found.append(("for comparison", words))
    return found


def _share(proof: Mapping[str, Any], distance: Mapping[str, Any]) -> str:
    return f"{distance['top1_agreement']:.1%} of {counted(proof['positions'], 'position')}"


def template_words(template: Mapping[str, Any]) -> str:
    """What became of the ten conversations on which a translated template is proven."""
    outcomes = [row["outcome"] for row in template["rows"]]
    equal, refused = outcomes.count("equal"), outcomes.count("refused")
    words = f"{equal} of {counted(len(outcomes), 'conversation')} the same character by character"
    return words + (f", {refused} refused by the chat template itself" if refused else "")


def _numbers_facts(proof: Mapping[str, Any]) -> list[tuple[str, str]]:
    rounding = f"{proof['largest_rounding']:.2f} units of the last place at most"
    return [
        ("copied", f"{counted(proof['copied_tensors'], 'tensor')}, the base's byte for byte"),
        (
            "merged",
            f"{counted(proof['changed_tensors'], 'tensor')}; {counted(proof['rows'], 'row')} of "
            f"them worked out again, off by {rounding}",
        ),
        ("answers", "none: the model was not loaded"),
    ]

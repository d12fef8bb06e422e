"""What the gate found, as a page: ledger, lengths, repeats, template, memory, plan, preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tanren.cli.display import (
    at,
    count,
    counted,
    facts,
    heading,
    number,
    one_line,
    row,
    show_warnings,
    size,
    table,
    text,
)
from tanren.cli.survey_page import show_duplicates

Summary = Mapping[str, Any]
Pieces = Sequence[tuple[str, bool]]


def show_gate(console: Console, summary: Summary, preview: Sequence[Pieces] = ()) -> None:
    """`summary` is `Gate.as_dict()`; `preview` is what `Gate.preview` gives."""
    _ledger(console, summary["data"])
    _lengths(console, summary["data"])
    show_duplicates(console, summary["data"]["duplicates"])
    _template(console, summary["template"])
    _memory(console, summary["memory"], summary["device"])
    _plan(console, summary)
    _serving(console, summary["serving"])
    show_preview(console, preview, pairs=at(summary, "objective", "name") == "dpo")
    if summary["warnings"]:
        console.print()
        show_warnings(console, summary["warnings"])


def _ledger(console: Console, data: Summary) -> None:
    """Every row of every file is in exactly one of: trained whole, trained cut, refused, faulty."""
    files = [data[name] for name in ("train", "validation") if data[name]]
    made = table("", *(file["path"] for file in files), title="Rows and tokens", right=(1, 2))
    for words, path in (
        ("lines", ("counts", "lines")),
        ("blank", ("counts", "blank_lines")),
        ("faulty rows", ("counts", "refused")),
        ("rows", ("ledger", "source_rows")),
        ("  trained whole", ("ledger", "trained_whole")),
        ("  trained, cut at the end", ("ledger", "trained_cut")),
    ):
        row(made, words, *(count(at(file, *path)) for file in files))
    reasons = sorted({reason for file in files for reason in file["ledger"]["refused"]})
    for reason in reasons or ["refused"]:
        amounts = (count(file["ledger"]["refused"].get(reason, 0)) for file in files)
        row(made, f"  refused: {reason}" if reasons else "  refused", *amounts)
    row(made, "trained replies", *(count(file["trained_turns"]) for file in files))
    row(made, "sequences", *(count(file["ledger"]["sequences"]) for file in files))
    row(made, "tokens", *(count(file["ledger"]["tokens"]) for file in files))
    row(made, "  of them trained", *(_share(file["ledger"]) for file in files))
    row(made, "tokens cut", *(count(file["ledger"]["cut_tokens"]) for file in files))
    console.print(made)


def _share(ledger: Summary) -> str:
    tokens = ledger["tokens"]
    share = ledger["trained_tokens"] / tokens if tokens else 0.0
    return f"{count(ledger['trained_tokens'])} ({share:.0%})"


def _lengths(console: Console, data: Summary) -> None:
    made = table(
        "Tokens per row", "min", "median", "90%", "99%", "max", "limit", right=(1, 2, 3, 4, 5, 6)
    )
    for name in ("train", "validation"):
        if data[name]:
            ledger = data[name]["ledger"]
            spread = [ledger["lengths"][key] for key in ("min", "median", "p90", "p99", "max")]
            row(made, data[name]["path"], *map(count, spread), count(ledger["max_length"]))
    console.print(made)
    longest = data["train"]["ledger"]["longest"]
    words = ", ".join(f"{item['where']} ({count(item['tokens'])})" for item in longest)
    console.print(text(f"longest rows: {words}"))


def _template(console: Console, template: Summary) -> None:
    reasoning = {
        "none": "none",
        "always": "every reply begins with it",
        "switch": f"{'on' if template['thinking_on'] else 'off'} ({template['thinking_switch']})",
    }
    pairs: list[tuple[str, object]] = [
        ("from", template["origin"]),
        ("end of turn", repr(template["end_of_turn"])),
        ("ends generation", ", ".join(map(str, template["stop_ids"])) + " (token ids)"),
        ("reasoning", reasoning.get(template["thinking"], template["thinking"])),
        ("system messages", template["system"]),
        ("developer messages", template["developer"]),
        ("tools", template["tools"]),
        ("tool calls", template["tool_calls"]),
        ("tool results", template["tool_results"]),
    ]
    if template["date"]:
        pairs.append(("told date", template["date"]))
    heading(console, "Chat template")
    console.print(facts(pairs))


def _memory(console: Console, memory: Summary | None, device: Summary) -> None:
    heading(console, f"Memory on {one_line(str(device['name']))}")
    if memory is None:
        console.print(text("not estimated for this model", "yellow"))
        return
    made = table("part", "size", "how it is counted", right=(1,))
    for part in memory["parts"]:
        row(made, part["name"], size(part["bytes"]), part["formula"])
    made.add_section()
    row(made, "needed", size(memory["total_bytes"]), "", style="bold")
    row(made, "free on the device", size(memory["memory_bytes"]), "")
    fits = memory["fits"]
    style = "bold green" if fits else "bold red"
    left = size(abs(memory["headroom_bytes"]))
    row(made, "headroom" if fits else "missing", left, "", style=style)
    console.print(made)
    for sentence in memory["advice"]:
        console.print(text(sentence, "" if fits else "red"), soft_wrap=True)


def _plan(console: Console, summary: Summary) -> None:
    plan, method = summary["plan"], summary["method"]
    epochs = plan["steps"] / plan["steps_per_epoch"]
    pairs: list[tuple[str, object]] = [
        ("model", summary["model"]["name"]),
        ("method", _method(method)),
        *_objective(summary.get("objective") or {}, plan),
        (
            "steps",
            f"{count(plan['steps'])} ({counted_epochs(epochs)}, {plan['steps_per_epoch']} each)",
        ),
        ("tokens per epoch", count(plan["tokens_per_epoch"])),
        ("learning rate", _rates(plan["learning_rate"], method) + _factor(plan)),
        ("tokens per pass", count(plan["micro_batch_tokens"])),
        ("computes in", plan["dtype"]),
    ]
    if plan["checkpointed_layers"]:
        pairs.append(("recomputed layers", count(plan["checkpointed_layers"])))
    heading(console, "Plan")
    console.print(facts(pairs))
    _coverage(console, summary["coverage"])
    _groups(console, summary["groups"])


def _coverage(console: Console, coverage: Summary) -> None:
    """Which layers train (T19); a layer kind without an adapter is plain to see."""
    heading(console, "What trains")
    trained, everything = coverage["trained_parameters"], coverage["all_parameters"]
    kinds = [
        f"{kind} {found['adapted']}/{found['all']}" for kind, found in coverage["layers"].items()
    ]
    console.print(
        facts(
            [
                ("parameters", f"{count(trained)} of {count(everything)}"),
                ("layers with an adapter", ", ".join(kinds)),
            ]
        )
    )


def _groups(console: Console, groups: Sequence[Summary]) -> None:
    """The optimizer's groups as they will be (T20)."""
    shown = Table(box=None, title_justify="left", pad_edge=True)
    for name in ("optimizer group", "tensors", "elements", "learning rate", "weight decay"):
        shown.add_column(name, justify="left" if name == "optimizer group" else "right")
    for group in groups:
        shown.add_row(
            text(group["name"]),
            count(group["tensors"]),
            count(group["elements"]),
            number(group["learning_rate"], "g"),
            number(group["weight_decay"], "g"),
        )
    console.print(shown)


def _serving(console: Console, serving: Sequence[Summary]) -> None:
    """Where the result can be served without merging (T15)."""
    made = table("server", "unmerged", "why", "written by", title="Serving the adapter")
    styles = {"yes": "green", "yes, folded": "green", "no": "yellow"}
    for verdict in serving:
        answer = text(verdict["unmerged"], styles.get(verdict["unmerged"], ""))
        name = f"{verdict['server']} {verdict['version']}"
        row(made, name, answer, verdict["why"], verdict["instead"] or "training itself")
    console.print()
    console.print(made)


def counted_epochs(epochs: float) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs:.4g} epochs"


def _method(method: Summary) -> str:
    words = [str(method["name"])]
    words += [f"{key} {method[key]:g}" for key in ("rank", "alpha") if key in method]
    if "target_modules" in method:
        words.append(f"on {method['target_modules']}")
    return ", ".join(words)


def _rates(rate: float, method: Summary) -> str:
    """The peak rate of each optimizer group that has one of its own."""
    ratio = method.get("lr_ratio", 1.0)
    if ratio == 1.0:
        return number(rate, ".3g")
    words = f"A {number(rate, '.3g')}, B {number(rate * ratio, '.3g')} ({ratio:g} times A)"
    own = method.get("embedding_learning_rate")
    return words if own is None else f"{words}, embeddings {number(own, '.3g')}"


def _objective(objective: Summary, plan: Summary) -> list[tuple[str, object]]:
    """What is trained where it is not simply answers."""
    if objective.get("name") != "dpo":
        return []
    reference = f"{count(plan['reference_tokens'])} tokens once, forward alone"
    words = f"dpo, beta {number(objective['beta'], 'g')}: two answers a row"
    return [("objective", words), ("reference", reference)]


def _factor(plan: Summary) -> str:
    factor = plan.get("learning_rate_multiplier", 1.0)
    if factor == 1.0:
        return ""
    return f", {factor:g} times {number(plan['learning_rate'] / factor, '.3g')}"


def show_preview(console: Console, preview: Sequence[Pieces], *, pairs: bool = False) -> None:
    """The first rows as the model reads them; what is trained is coloured or between marks.
    `pairs`: each row is there twice, with its preferred answer and with the other.
    """
    if not preview:
        return
    colours = console.is_terminal and console.color_system is not None and not console.no_color
    begin, end = ("", "") if colours else marks(ascii_only=console.options.ascii_only)
    how = "coloured" if colours else f"between {begin} and {end}"
    rows = len(preview) // 2 if pairs else len(preview)
    what = "compared" if pairs else "trained"
    heading(console, f"First {counted(rows, 'row')}: what is {what} is {how}")
    for index, pieces in enumerate(preview):
        label = f"{index + 1}"
        if pairs:
            label = f"{index // 2 + 1} {'rejected' if index % 2 else 'preferred'}"
        console.print(text(f"-- {label} --", "dim"))
        console.print(_coloured(pieces) if colours else _marked(pieces, begin, end))


def marks(*, ascii_only: bool) -> tuple[str, str]:
    return ("[[", "]]") if ascii_only else ("⟦", "⟧")


def _coloured(pieces: Pieces) -> Text:
    line = Text()
    for words, trained in pieces:
        line.append_text(text(words, "bold green" if trained else "dim"))
    return line


def _marked(pieces: Pieces, begin: str, end: str) -> Text:
    return text("".join(f"{begin}{words}{end}" if trained else words for words, trained in pieces))

"""A distillation as a page: lengths, shares within the constraints, attempts and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tanren.cli.display import count, duration, facts, heading, number, row, shell, table, text

if TYPE_CHECKING:
    from tanren.distill.distillation import Distilled
    from tanren.distill.summary import Numbers, Summary, Within

_BAR = 40


def show_distillation(console: Console, done: Distilled) -> None:
    found = done.summary
    heading(console, f"{done.teacher}: {count(found.rows)} rows")
    _show_rows(console, done)
    if found.attempts.count:
        _show_lengths(console, found)
        _show_shares(console, found)
        _show_histogram(console, found)
    _show_rejected(console, found)
    for why, left in done.source.get("left_out", {}).items():
        _note(console, f"{count(left['count'])} left out: {why} ({left['places'][0]}, ...)")
    if found.with_reasoning:
        _note(console, f"{count(found.with_reasoning)} answers followed thoughts, not kept in rows")
    console.print()
    _show_files(console, done)


def _show_rows(console: Console, done: Distilled) -> None:
    found = done.summary
    pairs: list[tuple[str, object]] = [
        ("accepted", count(found.accepted)),
        ("rejected", count(found.rejected)),
        ("left", count(found.left)),
    ]
    if done.ideas is not None:
        pairs += _idea_facts(done.ideas)
    pairs += [
        ("requests", count(done.spent["requests"])),
        ("tokens", f"{count(done.spent['prompt_tokens'])} in prompts, "
                   f"{count(done.spent['answer_tokens'])} in answers"),
    ]  # fmt: skip
    if done.spent["uncertain_requests"]:
        words = f"{count(done.spent['uncertain_requests'])}, counted with their most"
        pairs.append(("requests of unknown cost", words))
    for judge, spent in done.spent["judges"].items():
        pairs.append((f"judge {judge}", f"{count(spent['requests'])} requests"))
    if done.spent["money"] is not None:
        pairs.append(("money", f"{done.spent['money']:.4f} {done.spent['currency']}"))
    console.print(facts(pairs))


def _idea_facts(ideas: Mapping[str, Any]) -> list[tuple[str, object]]:
    unreadable = ", ".join(f"{count(n)} {why}" for why, n in ideas["unreadable"].items())
    return [
        ("candidates", f"{count(ideas['candidates'])} in {count(ideas['requests'])} requests"),
        ("nearly a seed", count(ideas["near_seeds"])),
        ("nearly an accepted row", count(ideas["near_accepted"])),
        ("unreadable", unreadable or "0"),
        ("beyond the count", count(ideas["beyond_count"])),
        ("ended", ideas["ended"]),
    ]


def _show_lengths(console: Console, found: Summary) -> None:
    unit = found.length_unit
    made = table(f"{unit}", "rows", "mean", "median", "min", "max", "sd", right=range(1, 7))
    for words, numbers in (
        ("first answers", found.first_lengths),
        ("accepted", found.lengths),
    ):
        row(made, words, count(numbers.count), *_numbers(numbers))
    console.print(made)


def _numbers(found: Numbers) -> list[str]:
    values = (found.mean, found.median, found.least, found.most, found.deviation)
    return [number(value, ".1f") for value in values]


def _show_shares(console: Console, found: Summary) -> None:
    made = table("holds to", "at first", "after repair", "after all tries", right=(1, 2, 3))
    shares = [_share(w) for w in (found.at_first, found.after_repair, found.after_all_tries)]
    row(made, "everything", *shares)
    if found.length_within_first is not None and found.length_within_last is not None:
        first, last = _share(found.length_within_first), _share(found.length_within_last)
        row(made, "the length", first, "", last)
    console.print(made)
    attempts = found.attempts
    tokens = "not told" if found.tokens_per_row is None else f"{found.tokens_per_row:,.0f}"
    console.print(
        facts(
            [
                ("attempts a row", f"mean {number(attempts.mean, '.2f')}, most {attempts.most}"),
                ("seconds a row", f"mean {number(found.seconds_per_row.mean, '.2f')}, most "
                                  f"{duration(found.seconds_per_row.most)}"),
                ("tokens a row", tokens),
            ]
        )
    )  # fmt: skip


def _share(within: Within) -> str:
    return "-" if within.share is None else f"{within.share:.1%} ({count(within.rows)})"


def _show_histogram(console: Console, found: Summary) -> None:
    most = max(found.attempts_histogram.values())
    bar = "#" if console.options.ascii_only else "█"
    made = table("attempts", "rows", "", right=(0, 1))
    for attempts, rows in found.attempts_histogram.items():
        row(made, attempts, count(rows), bar * max(1, round(_BAR * rows / most)))
    console.print(made)


def _show_rejected(console: Console, found: Summary) -> None:
    if not found.rejected_by:
        return
    made = table("rejected for", "rows", right=(1,))
    for name, rows in found.rejected_by.items():
        row(made, name, count(rows))
    console.print(made)


def _show_files(console: Console, done: Distilled) -> None:
    folder = done.folder
    console.print(text(f"rows to train on:  {shell(folder.train_file)}", "bold"), soft_wrap=True)
    if done.summary.rejected or done.ideas is not None:
        console.print(text(f"rejected:          {shell(folder.rejected_file)}"), soft_wrap=True)
    console.print(text(f"where they are from: {shell(folder.provenance_file)}"), soft_wrap=True)
    if done.summary.accepted:
        console.print(text(f"next: tanren check {shell(folder.train_file)}"), soft_wrap=True)


def _note(console: Console, words: str) -> None:
    console.print(text(f"note: {words}", "yellow"), soft_wrap=True)

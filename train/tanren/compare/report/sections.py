"""From a comparison to what a report shows, section by section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from tanren.compare.data import Check, Comparison
from tanren.compare.report.arms_table import arms_table
from tanren.compare.report.recommended import COMMAND, FILE, recommended_file
from tanren.compare.report.shown_curves import curves, rates
from tanren.compare.report.shown_differences import differences, fronts, reaches
from tanren.compare.report.shown_runs import (
    audit,
    changes,
    failures,
    measured,
    servers,
)
from tanren.compare.report.styles import looks
from tanren.compare.report.wording import listed
from tanren.evaluate.report.document import (
    Alarm,
    Block,
    Code,
    Document,
    Figure,
    Folded,
    Section,
    Text,
)
from tanren.evaluate.report.wording import counted

READING = (
    "Intervals are 95%: of a hundred such comparisons about ninety-five intervals hold the true "
    "value. They are over seeds, and over rows too where a measure has rows; an interval over few "
    "seeds is wide because it has to be.",
    "“Shown” means that chance alone would hardly give such a difference. Who looks at many "
    "differences finds some by chance, so every p-value is raised for the number of them (Holm). "
    "“Not shown” does not mean equal: “would show” is the true difference that this comparison "
    "could have found.",
    "Costs were measured on this machine, each run in a process of its own; they carry over to "
    "others as ratios at best.",
)


def document(comparison: Comparison, *, drawings: bool = True) -> Document:
    """`drawings` False: tables in their place, and matplotlib is not needed."""
    drawn = looks(comparison)
    made = (
        _section("findings", "Findings", _findings(comparison)),
        _section("arms", "Arms", arms_table(comparison)),
        _section("curves", "Losses while training", curves(comparison, drawn)),
        _section("rates", "Learning rates", rates(comparison, drawn)),
        _section("fronts", "Quality against cost", fronts(comparison, drawn)),
        _section("differences", "Differences to the reference", differences(comparison, drawn)),
        _section("reach", "How soon", reaches(comparison, drawn)),
        _section("audit", "Was it fair?", audit(comparison)),
        _section("failures", "Failures", failures(comparison)),
        _section("settings", "What the arms change", changes(comparison)),
        _section("servers", "What can serve it", servers(comparison)),
        _section("measured", "How it was measured", measured(comparison)),
        _section("reading", "How to read this", map(Text, READING)),
        _section("recommended", "Recommended settings", _recommended(comparison)),
    )
    sections = tuple(_once(part) if drawings else _without_drawings(part) for part in made)
    return Document(comparison.title, _subtitle(comparison), sections)


def _section(id: str, title: str, blocks: Iterable[Block]) -> Section:
    return Section(id, title, tuple(blocks))


def _subtitle(comparison: Comparison) -> str:
    arms = counted(len(comparison.arms), "arm")
    seeds = counted(len(comparison.seeds), "seed")
    return f"{arms}, {seeds}, reference {comparison.reference}; {comparison.created}"


def _findings(comparison: Comparison) -> Iterable[Block]:
    failed = [check for check in comparison.audit if not check.passed]
    if failed:
        number = counted(len(comparison.audit), "check")
        title = f"This comparison is not fair: {len(failed)} of {number} failed"
        yield Alarm(title, tuple(map(_failed, failed)))
    for sentence in comparison.sentences or ("Nothing was found out.",):
        yield Text(sentence)


def _failed(check: Check) -> str:
    """With the arms' names, unless the text has them."""
    unnamed = [arm for arm in check.arms if arm not in check.text]
    return f"{check.name}: {check.text}{f' ({listed(unnamed)})' if unnamed else ''}"


def _recommended(comparison: Comparison) -> Iterable[Block]:
    found = comparison.recommendation
    if found is None:
        yield Text("None: no arm finished that could be recommended.")
        return
    yield Text(f"{found.arm}, in {FILE} beside this report:")
    yield Code(COMMAND, "bash")
    for reason in found.reasons:
        yield Text(reason)
    yield Code(recommended_file(found), "yaml")


# --- drawings -------------------------------------------------------------------------------------


def _once(of: Section) -> Section:
    """A drawing goes into the page and into a file of its own; it is drawn once."""
    return replace(of, blocks=tuple(map(_drawn_once, of.blocks)))


def _drawn_once(block: Block) -> Block:
    if isinstance(block, Figure):
        return replace(block, draw=cache(block.draw))
    if isinstance(block, Folded):
        return replace(block, blocks=tuple(map(_drawn_once, block.blocks)))
    return block


def _without_drawings(of: Section) -> Section:
    return replace(of, blocks=tuple(_tables(of.blocks)))


def _tables(blocks: Iterable[Block]) -> Iterable[Block]:
    for block in blocks:
        if isinstance(block, Folded):
            yield replace(block, blocks=tuple(_tables(block.blocks)))
        elif not isinstance(block, Figure):
            yield block
        elif block.table is not None:
            yield block.table


def figures(blocks: Iterable[Block]) -> Iterable[Figure]:
    """Every drawing, the folded ones too."""
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Folded):
            yield from figures(block.blocks)

"""What kind of task a data file is, and so what to measure, told from its own rows.

Only a guess that nearly all rows support is taken; the reason is in words and is shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics import Metric, metric_named, options_in
from tanren.evaluate.metrics.final_number import MARK, numbers_in
from tanren.evaluate.metrics.options import Choices
from tanren.evaluate.metrics.structured import parsed
from tanren.evaluate.metrics.text import normalised

Kind = Literal["classification", "multiple_choice", "numbers", "json", "text"]

NEARLY_ALL = 0.9
"""Share of rows that must fit: a few odd ones do not change what a file is."""
MOST_LABELS = 50
LABEL_CHARACTERS = 40
ROWS_PER_LABEL = 3
FEWEST_ROWS = 8
"""With fewer, labels that repeat prove nothing."""
SHORT_CHARACTERS = 20
"""Up to here an answer can be right word for word, and is also measured so."""

_BARE_NUMBER = re.compile(r"[-+−]?[$€£¥]?[-+−]?[\d.,]*\d\s?[^\d\s]{0,3}")

ALWAYS = (
    "characters", "tokens", "stop_rate", "empty", "repetition", "loss", "perplexity", "latency",
    "tokens_per_second",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """`primary` names the metric to look at first. `labels` are normalised, for classification
    only.
    """

    kind: Kind
    metrics: tuple[str, ...]
    reason: str
    labels: tuple[str, ...] = ()

    @property
    def primary(self) -> str:
        return self.metrics[0]

    def build(self) -> tuple[Metric, ...]:
        labelled = ("accuracy", "macro_f1", "micro_f1")
        return tuple(
            metric_named(name, labels=self.labels)
            if name in labelled and self.labels
            else metric_named(name)
            for name in self.metrics
        )


def choose(rows: Sequence[Answered]) -> Task:
    """From rows that need no answer yet. Give rows spread over the whole file: a file sorted by
    label shows one label at its head.
    """
    return choose_from(
        [row.question for row in rows],
        [row.reference for row in rows],
        [row.options for row in rows],
    )


def choose_from(
    prompts: Sequence[str],
    references: Sequence[str],
    options: Sequence[Sequence[str]] | None = None,
) -> Task:
    """`prompts` are what the user said last; `options` each row's own, where the data has such a
    field (else those that the prompt lists).
    """
    own = options if options is not None else [()] * len(prompts)
    rows = [
        _Row(prompt, reference, tuple(given))
        for prompt, reference, given in zip(prompts, references, own, strict=True)
        if reference.strip()
    ]
    if not rows:
        return Task("text", ALWAYS, "no row has a reference: only what answers do is measured")
    return (
        _json(rows)
        or _marked_numbers(rows)
        or _options(rows)
        or _labels(rows)
        or _bare_numbers(rows)
        or _text(rows)
    )


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: str
    reference: str
    own: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        return self.own or tuple(option.text for option in options_in(self.prompt))


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


def _of_all(found: Sequence[bool]) -> str:
    return f"{sum(found):,} of {len(found):,} rows"


def _json(rows: Sequence[_Row]) -> Task | None:
    values = [parsed(row.reference, fenced=True) for row in rows]
    found = [valid and isinstance(value, (dict, list)) for valid, value in values]
    if _share(found) < NEARLY_ALL:
        return None
    reason = f"the reference is a JSON object or list in {_of_all(found)}"
    return Task("json", ("json_fields", "json_valid", *ALWAYS), reason)


def _marked_numbers(rows: Sequence[_Row]) -> Task | None:
    tails = [row.reference.rpartition(MARK) for row in rows]
    found = [bool(mark) and len(numbers_in(tail)) == 1 for _, mark, tail in tails]
    if _share(found) < NEARLY_ALL:
        return None
    reason = f"the reference ends with {MARK} and a number in {_of_all(found)}"
    return Task("numbers", ("number", *ALWAYS), reason)


def _options(rows: Sequence[_Row]) -> Task | None:
    listed = [row.options for row in rows]
    found = [_is_among(row, options) for row, options in zip(rows, listed, strict=True)]
    if _share(found) < NEARLY_ALL:
        return None
    where = "its own options" if any(row.own for row in rows) else "options listed in its prompt"
    with_options = [options for options, fits in zip(listed, found, strict=True) if fits]
    if len({frozenset(map(normalised, options)) for options in with_options}) == 1:
        reason = f"the reference is one of the same {len(with_options[0])} options in"
        return _classification(rows, f"{reason} {_of_all(found)}", with_options[0])
    sizes = sorted({len(options) for options in with_options})
    count = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    reason = f"a row has {where} ({count}) and the reference is one of them in {_of_all(found)}"
    return Task("multiple_choice", ("choice", "exact_match", *ALWAYS), reason)


def _is_among(row: _Row, options: Sequence[str]) -> bool:
    if len(options) < 2:
        return False
    return Choices.of(options, row.prompt).named_by(row.reference) is not None


def _labels(rows: Sequence[_Row]) -> Task | None:
    counts = Counter(normalised(row.reference) for row in rows)
    short = all(len(label) <= LABEL_CHARACTERS for label in counts)
    few = len(counts) <= MOST_LABELS and len(rows) >= ROWS_PER_LABEL * len(counts)
    if not short or not few or len(rows) < FEWEST_ROWS:
        return None
    if len(counts) == 1:
        reason = f"all {len(rows):,} rows have the same short reference {next(iter(counts))!r}"
    else:
        reason = f"{len(rows):,} rows have only {len(counts)} different short references"
    return _classification(rows, reason, ())


def _classification(rows: Sequence[_Row], reason: str, options: Sequence[str]) -> Task:
    """Labels are what the references say (which may be the letters of the options); options that
    no reference has are labels too where references are spelt out.
    """
    said = {normalised(row.reference) for row in rows}
    spelt = {normalised(option) for option in options}
    labels = tuple(sorted(said | spelt if said & spelt else said))
    shown = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
    metrics = ("accuracy", "macro_f1", "micro_f1", *ALWAYS)
    return Task("classification", metrics, f"{reason} ({shown})", labels)


def _bare_numbers(rows: Sequence[_Row]) -> Task | None:
    found = [_is_number(row.reference) for row in rows]
    if _share(found) < NEARLY_ALL:
        return None
    return Task("numbers", ("number", *ALWAYS), f"the reference is a number in {_of_all(found)}")


def _is_number(text: str) -> bool:
    """One number and nothing else but a currency before it and a unit after it."""
    plain = normalised(text)
    return _BARE_NUMBER.fullmatch(plain) is not None and len(numbers_in(plain)) == 1


def _text(rows: Sequence[_Row]) -> Task:
    lengths = sorted(len(normalised(row.reference)) for row in rows)
    median = lengths[len(lengths) // 2]
    different = len({normalised(row.reference) for row in rows})
    facts = (
        f"{different:,} different references in {len(rows):,} rows, median length {median} "
        "characters"
    )
    if median <= SHORT_CHARACTERS:
        metrics = ("normalised_match", "contains", "chrf", "rouge_l", *ALWAYS)
        return Task("text", metrics, f"short free text: {facts}")
    return Task("text", ("rouge_l", "chrf", "bleu", *ALWAYS), f"free text: {facts}")

"""Writes a blind sheet: what raters get, and the key that they do not get.

FOLDER/
  for-raters/sheet.html   a form: open it in a browser, no network needed
  for-raters/sheet.csv    the same as a table
  key.json                which model gave which answer; stays with you
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tanren.errors import ConfigError, Fault
from tanren.evaluate.humans.items import Item, Items
from tanren.evaluate.judges.prompt import Criterion
from tanren.evaluate.judges.scale import Mode
from tanren.rundir import staged_folder, write_json

Language = Literal["en", "ja"]
KEY_FORMAT = "tanren-sheet-key"
FORMAT_VERSION = 1
EXCEL_LETTERS = 32_000
"""Excel cuts a cell at 32,767 characters without a word."""

VALUES: Mapping[Mode, str] = {
    "score": "0-100",
    "likert": "1-5",
    "rubric": "yes/no",
    "pairwise": "A/B/tie",
}
# Excel runs a cell that begins so as a formula; the full-width ones too, in Japanese versions.
_FORMULA_STARTS = tuple("=+-@\t\r＝＋－＠")


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was written. `cut_cells` counts texts too long for Excel that are cut in the CSV (the
    form shows them whole).
    """

    sheet: str
    html: Path
    csv: Path
    key: Path
    items: int
    left_out: int
    cut_cells: int


def write_sheet(
    items: Items,
    folder: Path,
    *,
    seed: int,
    mode: Mode,
    criteria: Sequence[Criterion],
    language: Language = "en",
) -> Sheet:
    """Write the sheet; `folder` appears whole or not at all. The same seed gives the same sheet.

    Model names stand in `key.json` alone. Raises ConfigError when there is nothing to rate, or the
    mode does not fit the items.
    """
    _ensure_fitting(items, mode, folder)
    shown = items.shuffled(seed)
    key = _key(shown, seed, mode, criteria)
    table, cut = _csv(shown.items, key, mode, criteria)
    with staged_folder(folder) as staged:
        (staged / "for-raters").mkdir()
        (staged / "for-raters" / "sheet.csv").write_bytes(table)
        form = _html(shown.items, key, mode, criteria, language)
        (staged / "for-raters" / "sheet.html").write_bytes(form)
        write_json(staged / "key.json", key)
    return Sheet(
        sheet=key["sheet"],
        html=folder / "for-raters" / "sheet.html",
        csv=folder / "for-raters" / "sheet.csv",
        key=folder / "key.json",
        items=len(shown.items),
        left_out=items.left_out,
        cut_cells=cut,
    )


def _ensure_fitting(items: Items, mode: Mode, folder: Path) -> None:
    faults = []
    if not items.items:
        found = f"nothing to rate ({items.left_out} left out)"
        faults.append(Fault("sheet", found, "at least one answer", "choose other rows"))
    elif (mode == "pairwise") != (len(items.items[0].models) == 2):
        shown = "pairs" if len(items.items[0].models) == 2 else "single answers"
        wanted = "pairwise for pairs; score, likert or rubric for single answers"
        faults.append(Fault("sheet", f"mode {mode} for {shown}", wanted, "change the mode"))
    if folder.exists():
        remedy = "choose another folder: raters may be at work on that sheet"
        faults.append(Fault(str(folder), "something there already", "a new folder", remedy))
    if faults:
        raise ConfigError.of(*faults)


def item_name(position: int) -> str:
    """Items are numbered as they are shown; a letter keeps Excel from seeing a number."""
    return f"q{position + 1}"


def _key(shown: Items, seed: int, mode: Mode, criteria: Sequence[Criterion]) -> dict[str, Any]:
    places = {
        item_name(k): {"row": item.row, "models": list(item.models)}
        for k, item in enumerate(shown.items)
    }
    key: dict[str, Any] = {
        "format": KEY_FORMAT,
        "version": FORMAT_VERSION,
        "seed": seed,
        "mode": mode,
        "criteria": [criterion.model_dump() for criterion in criteria],
        "model": shown.model,
        "against": shown.against,
        "items": places,
    }
    texts = [[item.question, item.reference, *item.answers] for item in shown.items]
    digest = hashlib.sha256(json.dumps([key, texts], sort_keys=True).encode()).hexdigest()
    # The prefix keeps Excel from reading digits and an e as a number.
    return {**key, "sheet": f"s-{digest[:12]}"}


# --- the table ------------------------------------------------------------------------------------


def _csv(
    items: Sequence[Item], key: Mapping[str, Any], mode: Mode, criteria: Sequence[Criterion]
) -> tuple[bytes, int]:
    """UTF-8 with a byte order mark, without which Excel shows Japanese as noise; and how many cells
    were cut.
    """
    pairs = mode == "pairwise"
    references = any(item.reference for item in items)
    rated = [f"{c.name}: {c.question} ({VALUES[mode]})" for c in criteria]
    header = [
        "sheet",
        "item",
        "question",
        *(["reference"] if references else []),
        *(["answer_a", "answer_b"] if pairs else ["answer"]),
        *rated,
        "comment",
        "rater",
    ]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    cut = 0
    for position, item in enumerate(items):
        texts = [item.question, *([item.reference] if references else []), *item.answers]
        cut += sum(len(each) > EXCEL_LETTERS for each in texts)
        cells = [as_cell(each) for each in texts]
        empty = [""] * (len(rated) + 2)
        writer.writerow([key["sheet"], item_name(position), *cells, *empty])
    return text.getvalue().encode("utf-8-sig", "replace"), cut


def as_cell(text: str) -> str:
    """A text that Excel shows as it is: never run as a formula, never cut without a word."""
    if len(text) > EXCEL_LETTERS:
        more = len(text) - EXCEL_LETTERS
        text = f"{text[:EXCEL_LETTERS]} [... {more} more characters: see sheet.html]"
    text = text.replace("\0", "\ufffd")
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


# --- the form -------------------------------------------------------------------------------------


def _html(
    items: Sequence[Item],
    key: Mapping[str, Any],
    mode: Mode,
    criteria: Sequence[Criterion],
    language: Language,
) -> bytes:
    """One file: the content policy forbids the network, and every script but ours."""
    data = {
        "sheet": key["sheet"],
        "version": FORMAT_VERSION,
        "mode": mode,
        "language": language,
        "criteria": [criterion.model_dump() for criterion in criteria],
        "items": [
            {
                "item": item_name(position),
                "question": item.question,
                "reference": item.reference,
                "answers": list(item.answers),
            }
            for position, item in enumerate(items)
        ],
    }
    style, script = _part("form.css"), _part("form.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "LANGUAGE": language,
        "POLICY": policy,
        "STYLE": style,
        "SCRIPT": script,
        # Within <script> only `</` and `<!--` mean something; as an escape `<` is JSON's alone.
        "DATA": json.dumps(data).replace("<", "\\u003c"),
    }
    page = re.sub(r"@(\w+)@", lambda found: parts[found[1]], _part("form.html"))
    return page.encode()


def _part(name: str) -> str:
    return (resources.files("tanren.evaluate.humans") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"

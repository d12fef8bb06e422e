"""From the words of a command line to sources: which format each input is in."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from tanren.data.convert.document import SINGLE_ROW_KEYS, JsonDocument
from tanren.data.convert.lines import JsonLines
from tanren.data.convert.opening import Input, named_input
from tanren.data.convert.parquet import DataSet, Parquet, is_hub_name, is_saved_dataset
from tanren.data.convert.records import Source, Tally
from tanren.data.convert.settings import FORMATS, Format, Settings
from tanren.data.convert.sheets import Sheet
from tanren.data.convert.tables import Table, checked_delimiter
from tanren.data.files import shown_path
from tanren.errors import ConfigError, DataError, Fault, UserError

SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
HUB_MARK = "hf:"
"""Before the name of a data set that could be taken for a path."""
_SPLITS = re.compile(r"(?<![a-z])(train|valid|validation|val|dev|test|eval)(?![a-z])")


def open_sources(
    words: Sequence[str], settings: Settings, tally: Tally, stack: contextlib.ExitStack
) -> list[Source]:
    """Every input, opened. Raises one error with the faults of all that cannot be."""
    sources: list[Source] = []
    errors: list[UserError] = []
    for word in words:
        try:
            sources += _opened(word, settings, tally, stack)
        except UserError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError(
            f"{len(errors)} inputs cannot be read", [f for error in errors for f in error.faults]
        )
    _require_all_used(sources, settings)
    return sources


def _require_all_used(sources: Sequence[Source], settings: Settings) -> None:
    """An option that concerns none of the inputs is a mistake, not a wish to be ignored."""
    texts = (Table, JsonLines, JsonDocument)
    concerns: tuple[tuple[str, bool, tuple[type, ...], str], ...] = (
        ("--sheet", settings.sheet is not None, (Sheet,), "an Excel file"),
        ("--key", settings.key is not None, (JsonDocument,), "a JSON object"),
        ("--delimiter", settings.delimiter is not None, (Table,), "a CSV file"),
        ("--no-header", not settings.header, (Table, Sheet), "a table"),
        ("--encoding", settings.encoding is not None, texts, "a text file"),
    )
    names = ", ".join(source.name for source in sources)
    faults = [
        Fault(option, f"only {names}", f"{needed} among the inputs", "leave it out")
        for option, given, kinds, needed in concerns
        if given and not any(isinstance(source, kinds) for source in sources)
    ]
    if faults:
        raise ConfigError.of(*faults)


def _opened(
    word: str, settings: Settings, tally: Tally, stack: contextlib.ExitStack
) -> list[Source]:
    path = Path(word)
    if word.startswith(HUB_MARK):
        name = word.removeprefix(HUB_MARK)
        return [DataSet(name, settings.split, settings.subset, tally)]
    is_folder = word != "-" and path.is_dir()
    if is_folder and not is_saved_dataset(path):
        files = _files_in(path, settings)
        return [_of_file(named_input(str(file), stack), settings, tally) for file in files]
    if is_folder or (
        word != "-" and not path.exists() and is_hub_name(word) and not _is_file(word)
    ):
        return [DataSet(word, settings.split, settings.subset, tally)]
    if settings.split is not None or settings.subset is not None:
        option = "--split" if settings.split is not None else "--subset"
        raise ConfigError.of(
            Fault(option, f"the file {word}", "a data set of the hub or a folder", "leave it out")
        )
    return [_of_file(named_input(word, stack), settings, tally)]


def _is_file(word: str) -> bool:
    """Whether a word that may name a data set is rather a file that is missing."""
    return Path(word.removesuffix(".gz")).suffix in SUFFIXES or Path(word).parent.is_dir()


def _files_in(folder: Path, settings: Settings) -> list[Path]:
    """The data files of a folder, of one split. DataError where that is not clear: rows of a test
    set must not slip into training.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and _is_data(p))
    splits = {name for file in files if (name := _split_of(file.relative_to(folder)))}
    where, expected = shown_path(folder), "data files of one split"
    if settings.split is not None:
        files = [f for f in files if _split_of(f.relative_to(folder)) == settings.split]
    elif len(splits) > 1:
        found = f"files of the splits {', '.join(sorted(splits))}"
        remedy = f"add --split {'train' if 'train' in splits else min(splits)}"
        raise DataError.of(Fault(where, found, expected, remedy))
    if not files:
        found = "no data file" + (f" of the split {settings.split}" if settings.split else "")
        remedy = f"name a folder with files such as {', '.join(list(SUFFIXES)[:3])}"
        raise DataError.of(Fault(where, found, expected, remedy))
    return files


def _is_data(path: Path) -> bool:
    return Path(path.name.lower().removesuffix(".gz")).suffix in SUFFIXES


def _split_of(path: Path) -> str | None:
    found = _SPLITS.findall(path.as_posix().lower())
    return found[-1] if found else None


def _of_file(file: Input, settings: Settings, tally: Tally) -> Source:
    form = settings.format or _format(file)
    if form == "parquet":
        return Parquet(file, tally)
    if form == "xlsx":
        return Sheet(file, settings.sheet, tally, header=settings.header)
    encoding = file.encoding(settings.encoding, settings.command)
    if file.head.startswith(b"\xef\xbb\xbf"):
        tally["byte order marks removed"] += 1
    if form in ("csv", "tsv"):
        delimiter = None if settings.delimiter is None else checked_delimiter(settings.delimiter)
        if delimiter is None and form == "tsv":
            delimiter = "\t"
        return Table(file, encoding, settings.command, delimiter, header=settings.header)
    if form == "json" or _starts_an_array(file, encoding):
        return JsonDocument(file, encoding, settings.command, settings.key)
    return JsonLines(file, encoding, settings.command)


def _format(file: Input) -> Format:
    """By what the file holds where that is plain, else by its name."""
    if file.head.startswith(b"PAR1"):
        return "parquet"
    if file.head.startswith(b"PK\x03\x04"):
        return "xlsx"
    named = SUFFIXES.get(file.suffix)
    if named in ("parquet", "xlsx"):
        found = f"no {'Parquet' if named == 'parquet' else 'Excel'} file inside"
        fault = Fault(file.name, found, f"what {file.suffix} says", "name its --format")
        raise DataError.of(fault)
    if named == "json":
        return "jsonl" if _is_lines(_head_text(file)) else "json"
    if named is not None:
        return named
    start = _head_text(file).lstrip()[:1]
    if start == "[":
        return "json"
    if start == "{":
        return "jsonl" if _is_lines(_head_text(file)) else "json"
    if file.suffix in ("", ".txt", ".dat") or file.name == "standard input":
        return "csv"
    found = f"the unknown suffix {file.suffix}"
    remedy = f"add --format {'|'.join(FORMATS)}"
    raise DataError.of(Fault(file.name, found, f"one of {' '.join(SUFFIXES)}", remedy))


def _head_text(file: Input) -> str:
    """Enough of the text to see its first brackets, whatever the encoding."""
    return file.head.replace(b"\0", b"").decode("utf-8", errors="replace").lstrip("\ufeff\ufffd")


def _starts_an_array(file: Input, encoding: str) -> bool:
    """Whether a `.jsonl` file is one JSON array all the same: `[` and a row, or `[` alone."""
    text = file.head[:4096].decode(encoding, errors="replace").removeprefix("\ufeff").lstrip()
    return text.startswith("[") and text[1:].lstrip()[:1] == "{" and not _closes(text)


def _closes(text: str) -> bool:
    """Whether the first of several lines is a whole list, and so a row by itself."""
    try:
        json.loads(text.split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return "\n" in text.strip()


def _is_lines(text: str) -> bool:
    """Whether a text that begins with `{` is JSONL: its first line is a whole object, and either
    there are more lines or that object looks like one row.
    """
    first, _, rest = text.lstrip().partition("\n")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    if rest.strip() or not isinstance(value, dict):
        return isinstance(value, dict)
    arrays = {key for key, item in value.items() if isinstance(item, list)}
    return not arrays or bool(arrays & set(SINGLE_ROW_KEYS))

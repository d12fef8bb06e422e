"""Parquet by batches, and data sets of Hugging Face by rows: Arrow's values as JSON has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tanren.data.convert.columns import named_columns
from tanren.data.convert.opening import Input
from tanren.data.convert.records import Broken, Record, Tally
from tanren.errors import ConfigError, DataError, Fault, WorkError
from tanren.strict_json import quoted

BATCH_ROWS = 4096
NULLS = "null entries removed from nested columns (Arrow writes them for keys that are absent)"


class Parquet:
    def __init__(self, file: Input, tally: Tally) -> None:
        self.name = file.name
        self.blank = 0
        self.total_bytes = None
        self._file = file
        self._tally = tally
        with _arrow_errors(self.name), self._opened() as parquet:
            self.columns = named_columns(parquet.schema_arrow.names, self.name)
            rows = parquet.metadata.num_rows
        self.said = f"Parquet, {len(self.columns)} columns, {rows:,} rows"

    def done_bytes(self) -> int:
        return 0

    def _opened(self) -> Any:
        from pyarrow.parquet import ParquetFile

        return ParquetFile(self._file.path)

    def __iter__(self) -> Iterator[Record | Broken]:
        number = 0
        with _arrow_errors(self.name), self._opened() as parquet:
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(number, without_nulls(row, self._tally))


class _arrow_errors:
    """pyarrow's errors, and its absence, as faults of the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            remedy = 'pip install "tanren[data]"'
            raise ConfigError.of(
                Fault(self._name, "no package pyarrow", "pyarrow to read Parquet", remedy)
            ) from None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from pyarrow.lib import ArrowException

        if isinstance(error, ArrowException | OSError | UnicodeDecodeError):
            found = f"no Parquet that can be read ({error})"
            raise DataError.of(
                Fault(self._name, found, "a whole Parquet file", "fetch or write it again")
            ) from None


def without_nulls(row: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """The row, its nested objects without null entries (T21); a cell that is null stays null."""
    for column, cell in row.items():
        if isinstance(cell, list | dict):
            row[column] = _pruned(cell, tally)
    return row


def _pruned(value: Any, tally: Tally) -> Any:
    if isinstance(value, list):
        return [_pruned(item, tally) for item in value]
    if isinstance(value, dict):
        kept = {key: _pruned(item, tally) for key, item in value.items() if item is not None}
        tally[NULLS] += len(value) - len(kept)
        return kept
    return value


# --- data sets ---

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")


def is_hub_name(word: str) -> bool:
    return _HUB_NAME.fullmatch(word) is not None


def is_saved_dataset(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED)


class DataSet:
    """A data set of the hub, streamed, or a folder that `datasets` saved. Never runs its code."""

    def __init__(self, word: str, split: str | None, subset: str | None, tally: Tally) -> None:
        self.name = word
        self.blank = 0
        self.total_bytes = None
        self._tally = tally
        self._rows = self._load(word, split, subset)
        names = self._rows.column_names
        self.columns = tuple(names) if names else None
        self.said = "data set"
        if self._rows.split is not None:
            self.said += f", split {quoted(str(self._rows.split))}"
        if self.columns:
            self.said += f", {len(self.columns)} columns"

    def done_bytes(self) -> int:
        return 0

    def _load(self, word: str, split: str | None, subset: str | None) -> Any:
        import datasets
        from huggingface_hub.errors import HTTPError

        folder = Path(word)
        try:
            if folder.is_dir():
                found = datasets.load_from_disk(word)
            else:
                streaming = not datasets.config.HF_HUB_OFFLINE
                found = datasets.load_dataset(word, subset, streaming=streaming)
        except (
            OSError,
            ValueError,
            RuntimeError,
            HTTPError,
            datasets.exceptions.DatasetsError,
        ) as e:
            raise _not_loaded(word, e) from None
        return self._of_split(found, split)

    def _of_split(self, found: Any, split: str | None) -> Any:
        if not isinstance(found, dict):
            if split is not None and str(found.split) != split:
                raise self._no_split([str(found.split)], split)
            return found
        if split in found:
            return found[split]
        if split is None and len(found) == 1:
            return next(iter(found.values()))
        raise self._no_split(list(found), split)

    def _no_split(self, names: list[str], split: str | None) -> DataError:
        found = "no split named" if split is None else f"no split {quoted(split)}"
        listed = ", ".join(names)
        remedy = f"add --split {names[0]}" if names else "name files"
        return DataError("no rows chosen", [Fault(self.name, found, f"one of {listed}", remedy)])

    def __iter__(self) -> Iterator[Record | Broken]:
        from huggingface_hub.errors import HTTPError

        try:
            for number, row in enumerate(self._rows, 1):
                yield Record(number, without_nulls(dict(row), self._tally))
        except (OSError, HTTPError) as error:
            raise _not_loaded(self.name, error) from None


def _not_loaded(word: str, error: Exception) -> Exception:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    remedy = "check the name, --subset and the network, or name a file on this machine"
    fault = Fault(word, f"{type(error).__name__}: {first}", "a data set that loads", remedy)
    if isinstance(error, ConnectionError | TimeoutError):
        return WorkError("the data set could not be read", [fault])
    return DataError("the data set cannot be read", [fault])

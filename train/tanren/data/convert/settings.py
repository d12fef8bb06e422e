"""How rows are to be read, as far as the user says so; the rest is detected and said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Format = Literal["csv", "tsv", "xlsx", "parquet", "json", "jsonl"]
ShapeName = Literal[
    "alpaca", "sharegpt", "prompt-completion", "chat", "columns", "turns", "choices", "legacy"
]
FORMATS: tuple[Format, ...] = get_args(Format)
SHAPES: tuple[ShapeName, ...] = get_args(ShapeName)


@dataclass(frozen=True, slots=True)
class Settings:
    """None is "find out"."""

    shape: ShapeName | None = None
    format: Format | None = None
    system: str | None = None
    """A text for every row without a system message of its own, or `@column`."""
    user: str | None = None
    """A column, or a Jinja template over the columns; so is `assistant`."""
    assistant: str | None = None
    template: Path | None = None
    """A YAML file with a Jinja template per message."""
    conversation: str | None = None
    """The column of a conversation's id, where each row is one message; with `role`, `content`."""
    role: str | None = None
    content: str | None = None
    order: str | None = None
    """The column that puts a conversation's rows in order; else they stay as they are."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """A name in the data -> system, user, assistant or tool; beside the names known already."""
    encoding: str | None = None
    delimiter: str | None = None
    header: bool = True
    """Whether a table's first row names its columns; else they are `column 1`, `column 2`, ..."""
    sheet: str | None = None
    key: str | None = None
    """The array to read, of a JSON object that holds several."""
    split: str | None = None
    subset: str | None = None
    keep_empty: bool = False
    """Keep rows with an empty question. Rows without an answer teach nothing and are left out."""
    keep_whitespace: bool = False
    skip_faulty: bool = False
    """Leave faulty rows out instead of refusing the whole."""
    limit: int | None = None
    """Rows read at most, over all inputs."""
    command: str = "tanren data convert ..."
    """The command line so far: a remedy shows it whole, with what is to be added."""

"""Columns and Jinja templates: where the text of a message comes from."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import jinja2
import jinja2.meta
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tanren.data.convert.cells import Cells
from tanren.data.convert.records import LeftOut
from tanren.errors import ConfigError, Fault
from tanren.strict_json import close_match, quoted

ROW = "row"
"""In a template: the whole row, for columns whose name is no word: `{{ row["my column"] }}`."""
TEMPLATE_FAILED = "a template that fails on the row"
_ROLES = ("system", "developer", "user", "assistant")
_LISTED = 12

# What an expression in a template can raise on data it was not made for.
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
)


class Text(Protocol):
    """A source of text. `columns` are those it uses; None says that it may use any."""

    columns: frozenset[str] | None

    def __call__(self, row: dict[str, Any]) -> str: ...


class Column:
    def __init__(self, name: str, cells: Cells) -> None:
        self.columns: frozenset[str] | None = frozenset((name,))
        self._name = name
        self._text = cells.text

    def __call__(self, row: dict[str, Any]) -> str:
        return self._text(row.get(self._name), self._name)


class Fixed:
    def __init__(self, text: str) -> None:
        self.columns: frozenset[str] | None = frozenset()
        self._text = text

    def __call__(self, row: dict[str, Any]) -> str:
        return self._text


class Template:
    """A Jinja template in a sandbox; a name that is no column is a fault, never an empty text."""

    def __init__(
        self, source: str, where: str, columns: Collection[str] | None, cells: Cells
    ) -> None:
        """`columns` are checked at once where a table has the same for all rows."""
        try:
            tree = _ENGINE.parse(source)
            self._template = _ENGINE.from_string(source)
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            line = getattr(error, "lineno", 1)
            remedy = "mend it: a column is written {{ column }}"
            raise ConfigError.of(
                Fault(f"{where} line {line}", str(error), "a Jinja template", remedy)
            ) from None
        names = jinja2.meta.find_undeclared_variables(tree)
        self._text = cells.text
        self._where = where
        self.columns: frozenset[str] | None = frozenset(names)
        if ROW in names and (columns is None or ROW not in columns):
            self.columns = None
            names.discard(ROW)
        if columns is not None:
            unknown = sorted(names - set(columns))
            if unknown:
                raise ConfigError.of(*(no_column(name, where, columns) for name in unknown))

    def __call__(self, row: dict[str, Any]) -> str:
        try:
            return self._text(self._template.render({ROW: row, **row}), self._where)
        except _FAILURES as error:
            remedy = f"there are {columns_listed(row)}"
            fault = ("", f"{self._where}: {error}", "a template for every row", remedy)
            raise LeftOut(TEMPLATE_FAILED, fault) from None


def _tojson(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_ENGINE = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
_ENGINE.filters["tojson"] = _tojson  # Jinja's own escapes for HTML


def text_of(
    written: str, option: str, columns: Collection[str], *, fixed: bool, cells: Cells
) -> Text:
    """What `--user` or `--assistant` names: a column, else a template."""
    if written in columns:
        return Column(written, cells)
    if "{{" in written or "{%" in written:
        return Template(written, option, columns if fixed else None, cells)
    raise ConfigError.of(no_column(written, option, columns))


def system_text(written: str, columns: Collection[str], cells: Cells) -> Text:
    """What `--system` names: `@column`, else the text itself."""
    if not written.startswith("@"):
        return Fixed(written)
    name = written[1:]
    if name not in columns:
        raise ConfigError.of(no_column(name, "--system", columns))
    return Column(name, cells)


def no_column(name: str, where: str, columns: Collection[str]) -> Fault:
    meant = close_match(name, columns)
    remedy = f"did you mean {quoted(meant)}?" if meant else "name one of them"
    expected = columns_listed(columns)
    if "{" in name:
        remedy = "write a column in a template as {{ column }}"
    return Fault(where, f"no column {quoted(name)}", f"one of {expected}", remedy)


def columns_listed(columns: Collection[str]) -> str:
    names = list(columns)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("the columns " + ", ".join(map(quoted, names[:_LISTED])) + more) if names else "none"


def read_template_file(path: Path) -> list[tuple[str, str]]:
    """Role and template of each message. ConfigError with every fault of the file."""
    where = str(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError.of(
            Fault(where, str(error), "a readable YAML file in UTF-8", "correct --template")
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError.of(Fault(where, str(error), "YAML", "mend the line")) from None
    messages = loaded.get("messages") if isinstance(loaded, dict) else None
    if not isinstance(messages, list) or not messages or set(loaded) != {"messages"}:
        expected = "`messages:`, a list of `role:` and `content:`, and nothing else"
        raise ConfigError.of(Fault(where, "something else", expected, "write it so"))
    faults = [
        fault for index, message in enumerate(messages) for fault in _message_faults(message, index)
    ]
    if faults:
        raise ConfigError.of(*(Fault(f"{where} {at}", *rest) for at, *rest in faults))
    return [(message["role"], message["content"]) for message in messages]


def _message_faults(message: object, index: int) -> list[tuple[str, str, str, str]]:
    at = f"messages[{index}]"
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        return [(at, "something else", "`role:` and `content:`", "write both and nothing else")]
    found = []
    if message["role"] not in _ROLES:
        expected = "|".join(_ROLES)
        found.append((f"{at}.role", repr(message["role"]), expected, "use one of these"))
    if not isinstance(message["content"], str):
        found.append((f"{at}.content", repr(message["content"]), "a template", "quote the text"))
    return found

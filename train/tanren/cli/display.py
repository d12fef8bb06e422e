"""Words, numbers and tables as people read them. Users' text is shown as it is, never as markup."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tanren.errors import Fault

# What moves the cursor, hides or reorders what a person reads: control characters, halves of
# characters, and the marks that change the direction of writing.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(words: str) -> str:
    """Text that can do nothing to a terminal but be read; newlines and tabs stay."""
    return _UNSAFE.sub(_escaped, words)


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def one_line(words: str) -> str:
    """Clean text on a single line."""
    return clean(re.sub(r"[\r\n\t\x85\u2028\u2029]+", " ", words)).strip()


def text(words: object, style: str = "") -> Text:
    return Text(clean(str(words)), style=style)


def count(number: object) -> str:
    """1234567 -> 1,234,567. What is no number is shown as it is."""
    return f"{number:,}" if isinstance(number, int | float) else _other(number)


def number(value: object, spec: str = ".4f") -> str:
    return format(value, spec) if isinstance(value, int | float) else _other(value)


def _other(value: object) -> str:
    return "-" if value is None else one_line(str(value))


def size(count_of_bytes: object) -> str:
    """Bytes in the unit that fits; GB are 1e9 bytes."""
    if not isinstance(count_of_bytes, int | float):
        return _other(count_of_bytes)
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count_of_bytes) >= scale:
            return f"{count_of_bytes / scale:.1f} {unit}"
    return f"{count_of_bytes:.0f} bytes"


def duration(seconds: object) -> str:
    """12.3 s, 3 min 05 s, 2 h 03 min, 3 d 04 h."""
    if not isinstance(seconds, int | float):
        return _other(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def local_time(stamp: str, shape: str = "%Y-%m-%d %H:%M") -> str:
    """An ISO time as the clock on the wall shows it."""
    try:
        return datetime.fromisoformat(stamp).astimezone().strftime(shape)
    except ValueError:
        return one_line(stamp)


def shell(path: object) -> str:
    """A path as a shell takes it in a command to copy."""
    return shlex.quote(str(path))


def sparkline(values: Sequence[float], *, width: int = 16, ascii_only: bool = False) -> str:
    """The course of values as small bars between the lowest and the highest of them."""
    bars = "_.-=^" if ascii_only else "▁▂▃▄▅▆▇█"
    if not values:
        return ""
    shown = [values[round(i)] for i in _spread(len(values), width)]
    low, high = min(shown), max(shown)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale)] for value in shown)


def _spread(length: int, width: int) -> Iterable[float]:
    if length <= width:
        return range(length)
    return [i * (length - 1) / (width - 1) for i in range(width)]


def counted(amount: int, noun: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def table(*headers: str, title: str | None = None, right: Sequence[int] = ()) -> Table:
    """An empty table; `right` names the columns of numbers. Long cells fold, nothing is cut off."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, header in enumerate(headers):
        made.add_column(header, justify="right" if index in right else "left", overflow="fold")
    return made


def row(made: Table, *cells: object, style: str = "") -> None:
    made.add_row(*(cell if isinstance(cell, Text) else text(cell) for cell in cells), style=style)


def facts(pairs: Iterable[tuple[str, object]], *, title: str | None = None) -> Table:
    """Two columns: what, and how it is."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(text(name), value if isinstance(value, Text) else text(value))
    return made


def heading(console: Console, words: str) -> None:
    console.print()
    console.print(text(words, "bold"))


def show_faults(console: Console, faults: Sequence[Fault], *, limit: int) -> None:
    """The first faults, one a line, and how many more there are."""
    for fault in faults[:limit]:
        line = Text("  ")
        line.append_text(text(fault.where, "bold"))
        rest = f": found {fault.found}, expected {fault.expected}; {fault.remedy}"
        line.append_text(text(one_line(rest)))
        console.print(line, soft_wrap=True)
    if len(faults) > limit:
        more = f"  and {len(faults) - limit:,} more (--json has them all)"
        console.print(text(more, "dim"), soft_wrap=True)


def show_warnings(console: Console, warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(text(f"warning: {one_line(warning)}", "yellow"), soft_wrap=True)


def at(value: Any, *path: str) -> Any:
    """What lies at a path of keys in JSON from disk; None where there is nothing."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value

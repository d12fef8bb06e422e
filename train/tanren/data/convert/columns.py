"""The names of a table's columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tanren.errors import DataError, Fault
from tanren.strict_json import quoted


def named_columns(cells: Sequence[str], where: str) -> tuple[str, ...]:
    """Header cells without outer space; one without a name becomes `column 3`.

    DataError where two have the same name: one would hide the other.
    """
    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError.of(
            *(
                Fault(where, f"the column {quoted(name)} twice", "each name once", "rename one")
                for name in twice
            )
        )
    return tuple(names)

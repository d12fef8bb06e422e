"""From a cell to the text of a message; what is not text is converted as said here, or a fault.

Numbers become their digits, true and false these words, dates their ISO form; each is counted.
null, NaN and absent cells are empty. Lists, objects and bytes are faults.
"""

from __future__ import annotations

import datetime
import decimal
import math
from typing import Any

from tanren.data.convert.records import LeftOut, Tally
from tanren.strict_json import child, shown

NOT_TEXT = "a value that is no text"
TRIMMED = "texts whose outer spaces were removed"


class Cells:
    def __init__(self, tally: Tally, *, keep_whitespace: bool) -> None:
        self._tally = tally
        self._keep = keep_whitespace

    def text(self, value: object, path: str) -> str:
        """The cell's text, "" for none. Raises LeftOut for what cannot be text."""
        if type(value) is not str:
            return self._other(value, path)
        if self._keep:
            return value
        trimmed = value.strip()
        if len(trimmed) != len(value):
            self._tally[TRIMMED] += 1
        return trimmed

    def _other(self, value: Any, path: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, str):
            return self.text(str(value), path)
        if isinstance(value, bool):
            self._tally["booleans written as text (true, false)"] += 1
            return "true" if value else "false"
        if isinstance(value, int | float | decimal.Decimal) and math.isfinite(value):
            self._tally["numbers written as text"] += 1
            return str(value)
        if isinstance(value, datetime.date | datetime.time):
            self._tally["dates and times written as text (2026-11-22 10:30:00)"] += 1
            return str(value)
        place = child("", path)
        found = f"a Python {type(value).__name__}" if isinstance(value, bytes) else shown(value)
        remedy = f"name it in a template: {{{{ {path} | tojson }}}} or {{{{ {path}[0] }}}}"
        raise LeftOut(NOT_TEXT, (place, found, "text", remedy))

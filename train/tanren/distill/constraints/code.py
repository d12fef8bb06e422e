"""A constraint that the user wrote in Python. It runs code, so the command has to allow it."""

from __future__ import annotations

import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, PrivateAttr

from tanren.distill.constraints.base import Constraint, Measured, Problem
from tanren.distill.rows import SourceRow
from tanren.errors import ConfigError, Fault, TanrenError


class PythonCode(Constraint):
    """`function(text, row)` returns None, or in words what is wrong. `row` is a dict with text,
    reference, row (other keys) and file.
    """

    function: str = Field(
        pattern=r"^[^:]+:[A-Za-z_]\w*$",
        description="module:function, or path/to/file.py:function.",
    )
    _call: Callable[[str, dict[str, Any]], Any] | None = PrivateAttr(None)

    @property
    def name(self) -> str:
        return f"python.{self.function.rpartition(':')[2]}"

    def prepare(self) -> None:
        """ConfigError where there is no such function."""
        module, _, name = self.function.rpartition(":")
        found = _loaded(module, self.function)
        self._call = getattr(found, name, None)
        if not callable(self._call):
            raise _refused(self.function, f"no function {name} in {module}", "correct the name")

    def measure(self, text: str, row: SourceRow) -> Measured:
        assert self._call is not None, "prepare came first"
        try:
            words = self._call(text, dict(row.values))
        except Exception as error:  # the user's code may raise anything; it is told as theirs
            raise self._failed(error, row) from error
        if words is None:
            return Measured("holds")
        if not isinstance(words, str) or not words.strip():
            found = f"{words!r} from {row.place}"
            raise _refused(self.function, found, "let it return None or words")
        return Measured("broken", Problem("python", {"found": words.strip()}))

    def _failed(self, error: Exception, row: SourceRow) -> TanrenError:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno}) for {row.place}"
        return _refused(self.function, found, "mend the function and start again")


def _loaded(module: str, function: str) -> ModuleType:
    try:
        if not module.endswith(".py"):
            return importlib.import_module(module)
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
    except Exception as error:  # importing runs the user's code
        found = f"{type(error).__name__}: {error}"
        remedy = "correct the name; a file is named with its .py, from the settings' folder"
        raise _refused(function, found, remedy) from error
    return made


def _refused(function: str, found: str, remedy: str) -> TanrenError:
    where = f"constraint python {function}"
    return ConfigError.of(Fault(where, found, "None or words of what is wrong", remedy))

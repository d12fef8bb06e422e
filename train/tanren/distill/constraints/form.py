"""Answers that are JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, model_validator

from tanren.distill.constraints.base import Constraint, Measured, Problem
from tanren.distill.rows import SourceRow
from tanren.errors import ConfigError, Fault, TanrenError
from tanren.rundir import read_json as read_file
from tanren.strict_json import read_json

_SHOWN = 5


class JsonSchema(Constraint):
    """The whole answer is one JSON value that fits a schema (draft 2020-12 unless it says another).

    References outside the schema are not fetched.
    """

    file: str | None = Field(None, description="File with the schema.")
    definition: dict[str, Any] | None = Field(None, description="The schema itself.")
    _validator: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> JsonSchema:
        if (self.file is None) == (self.definition is None):
            raise ValueError("either file or definition")
        return self

    @property
    def name(self) -> str:
        return "json_schema"

    def schema_value(self) -> Any:
        return self.definition if self.file is None else read_file(Path(self.file))

    def prepare(self) -> None:
        """ConfigError where jsonschema is missing or the schema is none."""
        self._validator = validator_of(self.schema_value())

    def measure(self, text: str, row: SourceRow) -> Measured:
        value, faults = read_json(text, "answer")
        if faults:
            found = faults[0].found
            return Measured("not JSON", Problem("json_schema.syntax", {"found": found}))
        complaints = self._complaints(value)
        if not complaints:
            return Measured("fits")
        facts = {"complaints": complaints[:_SHOWN], "more": max(0, len(complaints) - _SHOWN)}
        return Measured("does not fit", Problem("json_schema.broken", facts))

    def _complaints(self, value: Any) -> list[str]:
        from referencing.exceptions import Unresolvable

        assert self._validator is not None, "prepare came first"
        try:
            broken = sorted(self._validator.iter_errors(value), key=lambda e: e.json_path)
        except Unresolvable as error:
            raise _refused(
                f"$ref {error.ref}", "a place in the schema itself", "write the definition there"
            ) from None
        return [f"{error.json_path}: {error.message}" for error in broken]


def validator_of(schema: Any) -> Any:
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry
    except ImportError:
        remedy = 'pip install "tanren[data]"'
        raise _refused("no package jsonschema", "it installed", remedy) from None
    if not isinstance(schema, dict | bool):
        raise _refused("no object", "a JSON Schema", "write an object")
    chosen = validator_for(schema, default=Draft202012Validator)
    try:
        chosen.check_schema(schema)
    except SchemaError as error:
        found = f"{error.json_path}: {error.message}"
        raise _refused(found, "a valid JSON Schema", "mend the schema") from None
    return chosen(schema, registry=Registry())


def _refused(found: str, expected: str, remedy: str) -> TanrenError:
    return ConfigError.of(Fault("constraint json_schema", found, expected, remedy))

"""Answers that should be JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tanren.evaluate.answered import Answered
from tanren.evaluate.metrics.base import RowMetric, missing_extra, refused
from tanren.strict_json import read_json

_FENCE = re.compile(r"\s*```(?:json)?\s*\n(?P<inside>.*?)\n?\s*```\s*", re.DOTALL | re.IGNORECASE)
_ABSENT = object()


def parsed(text: str, *, fenced: bool) -> tuple[bool, Any]:
    """Whether `text` is strict JSON (no NaN, no key twice), and its value. With `fenced`, one code
    fence around it is allowed.
    """
    inside = _FENCE.fullmatch(text) if fenced else None
    value, faults = read_json(inside["inside"] if inside else text.strip(), "answer")
    return not faults, value


@dataclass(frozen=True)
class JsonValid(RowMetric):
    """The answer is JSON and nothing else; with `fenced` a code fence may stand around it."""

    fenced: bool = False

    name = "json_valid"
    title = "Valid JSON"
    needs_reference = False

    def measure(self, row: Answered) -> float:
        return float(parsed(row.answer, fenced=self.fenced)[0])

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`only_in_a_fence`: answers that are JSON only once a code fence is taken off."""
        said = [row for row in rows if row.error is None]
        bare = [parsed(row.answer, fenced=False)[0] for row in said]
        inside = [parsed(row.answer, fenced=True)[0] for row in said]
        fences = sum(i and not b for b, i in zip(bare, inside, strict=True))
        return {**super().details(rows), "only_in_a_fence": fences}


@dataclass(frozen=True)
class JsonFields(RowMetric):
    """The share of the reference's fields that the answer has with an equal value. Fields are the
    leaves, `items[0].name`; 1 equals 1.0, true equals no 1. Additional fields cost nothing here and
    are counted. Says nothing where the reference is neither an object nor a list.
    """

    fenced: bool = False

    name = "json_fields"
    title = "JSON fields right"

    def measure(self, row: Answered) -> float | None:
        wanted = self._wanted(row)
        if wanted is None:
            return None
        said = self._said(row)
        right = sum(_equal(said.get(path, _ABSENT), value) for path, value in wanted.items())
        return right / len(wanted)

    def _wanted(self, row: Answered) -> dict[str, Any] | None:
        valid, value = parsed(row.reference, fenced=True)
        return dict(leaves(value)) if valid and isinstance(value, (dict, list)) else None

    def _said(self, row: Answered) -> dict[str, Any]:
        valid, value = parsed(row.answer, fenced=self.fenced)
        return dict(leaves(value)) if valid and isinstance(value, (dict, list)) else {}

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`per_field` (share right, lists counted together as `items[].name`), `all_right` (share
        of rows), `additional_fields` (fields of answers that no reference has).
        """
        right: dict[str, list[bool]] = {}
        additional = 0
        scored = [row for row in rows if self.score(row) is not None]
        for row in scored:
            wanted, said = self._wanted(row) or {}, self._said(row)
            additional += len(said.keys() - wanted.keys())
            for path, value in wanted.items():
                place = right.setdefault(re.sub(r"\[\d+\]", "[]", path), [])
                place.append(_equal(said.get(path, _ABSENT), value))
        whole = sum(self.score(row) == 1 for row in scored)
        return {
            **super().details(rows),
            "per_field": {path: sum(hits) / len(hits) for path, hits in sorted(right.items())},
            "all_right": whole / len(scored) if scored else None,
            "additional_fields": additional,
        }


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, with its path; an empty object or list is a leaf."""
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from leaves(inside, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for i, inside in enumerate(value):
            yield from leaves(inside, f"{path}[{i}]")
    else:
        yield path, value


def _equal(said: Any, wanted: Any) -> bool:
    if isinstance(said, bool) or isinstance(wanted, bool):
        return said is wanted
    return bool(said == wanted)


@dataclass(frozen=True)
class JsonSchema(RowMetric):
    """The answer is JSON that a JSON Schema (draft 2020-12 unless `$schema` says otherwise)
    allows. References to other addresses are not followed: nothing is fetched.
    """

    schema: Mapping[str, Any] = field(hash=False)
    fenced: bool = False

    name = "json_schema"
    title = "JSON as the schema says"
    needs_reference = False

    def __post_init__(self) -> None:
        _ = self._validator  # a wrong schema is told before any answer is read

    @cached_property
    def _validator(self) -> Any:
        try:
            from jsonschema import Draft202012Validator
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import validator_for
            from referencing import Registry
        except ImportError:
            raise missing_extra("jsonschema", "metric json_schema") from None
        chosen = validator_for(self.schema, default=Draft202012Validator)
        try:
            chosen.check_schema(self.schema)
        except SchemaError as error:
            where = f"json_schema.schema {error.json_path}"
            raise refused(where, error.instance, "a valid JSON Schema", error.message) from None
        return chosen(self.schema, registry=Registry())

    def measure(self, row: Answered) -> float:
        return float(not self._complaints(row))

    def _complaints(self, row: Answered) -> list[str]:
        valid, value = parsed(row.answer, fenced=self.fenced)
        if not valid:
            return ["not JSON"]
        from referencing.exceptions import Unresolvable

        try:
            broken = list(self._validator.iter_errors(value))
        except Unresolvable as error:
            where, remedy = "json_schema.schema $ref", "write the definition into the schema"
            raise refused(where, error.ref, "a place in the schema itself", remedy) from None
        return [f"{error.json_path}: {error.validator}" for error in broken]

    def details(self, rows: Sequence[Answered]) -> dict[str, Any]:
        """`complaints`: rows per broken rule, such as `$.age: type`."""
        counts: dict[str, int] = {}
        for row in rows:
            if row.error is None:
                for complaint in set(self._complaints(row)):
                    counts[complaint] = counts.get(complaint, 0) + 1
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return {
            **super().details(rows),
            "complaints": dict(ranked),
            "schema": json.loads(json.dumps(self.schema)),
        }

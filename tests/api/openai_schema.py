"""Every answer that a test receives, against OpenAI's own schema."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_FILE = Path(__file__).with_name("openai_schema.json")


def _allow_our_differences(schemas: dict[str, Any]) -> None:
    """Where ours differ on purpose; nowhere else.

    - A job may be `pausing` or `paused`: the published list of states lacks both, though pausing is
      part of the published API.
    - `expires_at` and `status_details` of a file are null where there is none, as OpenAI itself
      sends them; its schema would have them left out.
    - The ends of an empty page of files are null.
    - `evals` is a purpose that the schema lets files be sent with, but not come back with.
    """
    schemas["FineTuningJob"]["properties"]["status"]["enum"] += ["pausing", "paused"]
    file = schemas["OpenAIFile"]["properties"]
    for name in ("expires_at", "status_details"):
        file[name] = {"anyOf": [file[name], {"type": "null"}]}
    file["purpose"]["enum"].append("evals")
    page = schemas["ListFilesResponse"]["properties"]
    for name in ("first_id", "last_id"):
        page[name] = {"anyOf": [page[name], {"type": "null"}]}


@cache
def published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def _with_number_bounds(value: Any) -> Any:
    """`"minimum": 0, "exclusiveMinimum": true`, which OpenAPI 3.0 wrote, as JSON Schema has it."""
    if isinstance(value, list):
        return [_with_number_bounds(each) for each in value]
    if not isinstance(value, dict):
        return value
    made = {key: _with_number_bounds(each) for key, each in value.items()}
    if made.get("exclusiveMinimum") is True:
        made["exclusiveMinimum"] = made.pop("minimum")
    return made


@cache
def _ours() -> dict[str, Any]:
    document: dict[str, Any] = _with_number_bounds(published())
    _allow_our_differences(document["components"]["schemas"])
    return document


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {"components": _ours()["components"], "$ref": schema}
    return Draft202012Validator(whole)


def schema_for(method: str, path: str) -> str | None:
    """The reference of what a successful answer must be; None where OpenAI's says nothing."""
    for template, operations in _ours()["paths"].items():
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", template)
        if template == "/models/{model}":
            pattern = "/models/.+"
        if re.fullmatch("/v1" + pattern, path) and method.lower() in operations:
            answer = operations[method.lower()]["responses"]["200"]["content"]["application/json"]
            reference: str | None = answer["schema"].get("$ref")
            return reference
    return None


def check(method: str, path: str, status: int, body: bytes) -> bool:
    """Raises where the answer is none of OpenAI's. Returns whether there was a schema."""
    if method == "HEAD":
        return False
    if status >= 400:
        document = json.loads(body)
        assert set(document) == {"error"}, document
        assert set(document["error"]) == {"message", "type", "param", "code"}
        _validator("#/components/schemas/Error").validate(document["error"])
        return True
    reference = schema_for(method, path)
    if reference is None:
        return False
    _validator(reference).validate(json.loads(body))
    return True

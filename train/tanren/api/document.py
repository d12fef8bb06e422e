"""The OpenAPI document: what FastAPI reads from the routes, and what it cannot see: bodies that the
routes read themselves, and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from tanren.api.objects import ErrorBody

_REFERENCE = "#/components/schemas/"
_STATUSES = {
    "400": "Something in the request cannot be; the error says what.",
    "401": "No valid API key.",
    "403": "This key, or anybody, may not do that.",
    "404": "There is nothing of that name.",
    "405": "There is something, but not to be used this way.",
    "408": "The request stopped arriving.",
    "413": "More bytes than are taken.",
    "429": "Too much at once; Retry-After says when to come again.",
    "500": "A bug in tanren.",
    "507": "The server's disk is full.",
}


def body_of(form: type[BaseModel]) -> dict[str, Any]:
    """For `openapi_extra` of a route that reads this JSON itself."""
    schema = {"$ref": _REFERENCE + form.__name__}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def form_of(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """For `openapi_extra` of a route that reads this multipart form itself."""
    schema = {"type": "object", "properties": properties, "required": required}
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


class Application(FastAPI):
    """FastAPI with a document that tells the whole. `forms`: the bodies that `body_of` names."""

    forms: Sequence[type[BaseModel]] = ()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: Application) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    forms: list[type[BaseModel]] = [*app.forms, ErrorBody]
    for form in forms:
        schema = form.model_json_schema(ref_template=_REFERENCE + "{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[form.__name__] = schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}, {}]
    for path in document["paths"].values():
        for operation in path.values():
            _add_errors(operation["responses"])
    return document


def _add_errors(responses: dict[str, Any]) -> None:
    responses.pop("422", None)
    content = {"application/json": {"schema": {"$ref": _REFERENCE + "ErrorBody"}}}
    for status, meaning in _STATUSES.items():
        responses.setdefault(status, {"description": meaning, "content": content})

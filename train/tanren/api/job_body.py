"""The body that creates a fine-tuning job. Bounds of values are the queue's to check; here stands
what form they come in, and the OpenAPI document's account of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from tanren.store.errors import InvalidRequest
from tanren.store.records import JobRequest


def _or_auto(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"const": "auto"}, dict(schema), {"type": "null"}]}


_HYPERPARAMETERS: dict[str, Any] = {
    "n_epochs": _or_auto({"type": "integer", "minimum": 1, "maximum": 50}),
    "batch_size": _or_auto({"type": "integer", "minimum": 1, "maximum": 256}),
    "learning_rate_multiplier": _or_auto({"type": "number", "exclusiveMinimum": 0}),
}
_BETA = {"beta": _or_auto({"type": "number", "exclusiveMinimum": 0, "maximum": 2})}


def _hyperparameters(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _or_null(schema: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [dict(schema), {"type": "null"}]})


def _of_method(properties: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"hyperparameters": _hyperparameters(properties)}}
    return {"anyOf": [schema, {"type": "null"}]}


_TANREN = {"type": "object", "description": "Settings of the run: `tanren config` names them all."}
_METHOD = {
    "type": "object",
    "properties": {
        "type": {"enum": ["supervised", "dpo"]},
        "supervised": _of_method(_HYPERPARAMETERS),
        "dpo": _of_method({**_HYPERPARAMETERS, **_BETA}),
        "tanren": _TANREN,
    },
}
_METADATA = {
    "type": "object",
    "maxProperties": 16,
    "propertyNames": {"minLength": 1, "maxLength": 64},
    "additionalProperties": {"type": "string", "maxLength": 512},
}
_WANDB = {
    "type": "object",
    "required": ["type", "wandb"],
    "properties": {
        "type": {"const": "wandb"},
        "wandb": {
            "type": "object",
            "required": ["project"],
            "properties": {"project": {"type": "string", "minLength": 1, "maxLength": 256}},
        },
    },
}


class JobBody(BaseModel):
    """Null means absent. What is not named here is ignored, and counted."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=512)]
    training_file: Annotated[str, Field(min_length=1, max_length=512)]
    validation_file: str | None = None
    suffix: Annotated[
        str | None, _or_null({"type": "string", "minLength": 1, "maxLength": 64})
    ] = None  # fmt: skip
    seed: Annotated[
        Any, _or_null({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})
    ] = None  # fmt: skip
    metadata: Annotated[dict[str, str] | None, _or_null(_METADATA)] = None
    integrations: Annotated[
        list[dict[str, Any]] | None, _or_null({"type": "array", "items": _WANDB, "maxItems": 5})
    ] = None  # fmt: skip
    hyperparameters: Annotated[
        dict[str, Any] | None, _or_null(_hyperparameters(_HYPERPARAMETERS))
    ] = None  # fmt: skip
    method: Annotated[dict[str, Any] | None, _or_null(_METHOD)] = None
    tanren: Annotated[dict[str, Any] | None, _or_null(_TANREN)] = None

    def request(self) -> JobRequest:
        """What the queue is asked. Raises InvalidRequest."""
        method = self._method()
        hyperparameters = self.hyperparameters or {}
        if self.method is not None:
            chosen = _object(self.method.get(method), f"method.{method}")
            given = _object(chosen.get("hyperparameters"), f"method.{method}.hyperparameters")
            hyperparameters = given or hyperparameters
        return JobRequest(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            suffix=self.suffix,
            seed=self.seed,
            method=cast(Any, method),  # an unknown one is refused by the queue
            hyperparameters=hyperparameters,
            metadata=self.metadata,
            integrations=self.integrations or (),
            tanren=self._tanren(),
        )

    def _method(self) -> str:
        if self.method is None or (self.method.get("type") is None and "tanren" in self.method):
            return "supervised"
        name = self.method.get("type")
        if name is None:
            message = "Missing required parameter: 'method.type'."
            raise InvalidRequest(message, param="method.type", code="missing_required_parameter")
        if not isinstance(name, str):
            message = "Invalid type for 'method.type': expected a string."
            raise InvalidRequest(message, param="method.type", code="invalid_type")
        return name

    def _tanren(self) -> dict[str, Any]:
        """Our own settings; what stands under `method` wins over what stands beside it."""
        beside = _object(self.tanren, "tanren")
        return {**beside, **_object((self.method or {}).get("tanren"), "method.tanren")}


def _object(value: Any, param: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        message = f"Invalid type for '{param}': expected an object."
        raise InvalidRequest(message, param=param, code="invalid_type")
    return value

"""A YAML file or plain values as a strict pydantic model, with every fault at once (T24)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from tanren.errors import ConfigError, Fault
from tanren.strict_json import child, close_match, shown


class Strict(BaseModel):
    """Unknown keys and values of another type are errors, never guesses."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SECRET_PRONE = ("api_key_env", "base_url")
"""Fields into which people paste keys by mistake: what stands there is not shown in a fault."""

_Model = TypeVar("_Model", bound=Strict)


def checked(model: type[_Model], values: Mapping[str, Any], *, source: str) -> _Model:
    """`values` as a `model`. Raises ConfigError with every fault; `source` leads their places."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
    raise ConfigError.of(*(_fault(item, model, source) for item in found))


def _fault(item: ErrorDetails, model: type[BaseModel], source: str) -> Fault:
    path = ""
    for part in item["loc"]:
        path = child(path, part)
    where = f"{source} {path}".strip()
    name = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(model, item["loc"][:-1]))
        expected = "one of " + ", ".join(known)
        return Fault(where, "an unknown key", expected, _remedy_of_unknown(name, known))
    if item["type"] == "missing":
        return Fault(where, "nothing", "a value", f"add {name}")
    expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    hidden = name in SECRET_PRONE or not item["loc"]
    found = "a value that does not fit" if hidden else shown(item["input"])
    return Fault(where, found, expected, "change the value")


def _remedy_of_unknown(name: str, known: Sequence[str]) -> str:
    if name in ("api_key", "key", "token") and "api_key_env" in known:
        return "put the key into an environment variable and name that one: api_key_env"
    near = close_match(name, known)
    return f"did you mean {near!r}?" if near else "remove it"


def _fields_at(model: type[BaseModel], path: Sequence[int | str]) -> Mapping[str, Any]:
    """The fields that may stand at `path`, through lists and optional parts."""
    for part in path:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = next(_models_in(model.model_fields[part].annotation), None)
        if inner is None:
            return {}
        model = inner
    return model.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)

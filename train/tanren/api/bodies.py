"""JSON bodies: read whole, within limits, and turned into the request that they mean."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.requests import Request

from tanren.store.errors import InvalidRequest

DEEPEST = 64
"""Objects and arrays inside each other."""
_MOST_NUMBER_CHARACTERS = 1000

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, form: type[Body]) -> Body:
    """The request's JSON as `form`. Raises InvalidRequest, and ValidationError with every fault.

    The content type is not looked at: old scripts send none.
    """
    return form.model_validate(read_json(await request.body()))


def read_json(body: bytes) -> dict[str, Any]:
    """An object of JSON. Refused: other JSON, NaN and Infinity, half surrogates, and what lies
    too deep for those who work on it later.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(text, parse_constant=_no_number, parse_int=_whole, parse_float=_real)
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
            "using your HTTP library correctly. The API expects a JSON payload in UTF-8.)",
            code="invalid_json",
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest("The JSON body of a request must be an object.", code="invalid_type")
    _check(value)
    return value


def _no_number(name: str) -> float:
    raise ValueError(name)


def _whole(digits: str) -> int:
    if len(digits) > _MOST_NUMBER_CHARACTERS:  # longer ones take long to read
        raise ValueError("a number of too many digits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999
        raise ValueError("a number out of range")
    return number


def _check(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise InvalidRequest(
        f"The JSON body of your request is nested too deeply (more than {DEEPEST} levels).",
        code="invalid_json",
    )


def _inside(value: Any) -> Iterator[Any]:
    """Containers in a container, after a look at its texts."""
    texts = [*value, *value.values()] if isinstance(value, dict) else value
    for inner in texts:
        if isinstance(inner, str):
            _check_text(inner)
        elif isinstance(inner, dict | list):
            yield inner


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The JSON body of your request holds half of a surrogate pair (\\ud800 to \\udfff), "
            "which is no character.",
            code="invalid_json",
        ) from None

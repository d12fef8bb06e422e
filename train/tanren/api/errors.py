"""Errors as OpenAI's API words them: one JSON object whatever went wrong.

`{"error": {"message", "type", "param", "code"}}` is the only form that all its clients can read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tanren.api.wording import said
from tanren.errors import StorageError, UserError
from tanren.store.errors import LimitExceeded, RequestError

LONGEST_WAIT_SECONDS = 120
"""A longer `Retry-After` makes the Python client give up instead of waiting."""
CLIENT_LEFT = 499
"""Status of a request whose client did not wait for the answer; in logs and metrics alone."""

_TYPES = {429: "requests", 507: "server_error"}


class MethodNotAllowed(RequestError):
    status = 405


class Timeout(RequestError):
    """The client stopped sending in the middle of its request."""

    status = 408


class EngineFailed(RequestError):
    """The process that answers chats could not."""

    status = 500


def error_object(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The body of an error, and a line of a stream that breaks off."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`x-should-retry: false` wherever the same request must fail again: clients ask three times
    otherwise.
    """
    told = dict(headers or {})
    if status != 429:
        told.setdefault("x-should-retry", "false")
    return JSONResponse(
        error_object(status, message, param=param, code=code), status_code=status, headers=told
    )


def response_to(error: RequestError) -> Response:
    headers = {}
    if isinstance(error, LimitExceeded):
        seconds = min(max(1, math.ceil(error.retry_after)), LONGEST_WAIT_SECONDS)
        headers["retry-after"] = str(seconds)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return error_response(
        error.status, str(error), param=error.param, code=error.code, headers=headers
    )


def install(app: FastAPI) -> None:
    """Every error that a route raises on purpose, and those of the frameworks below it."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(StorageError, _storage_error)
    app.add_exception_handler(ValidationError, _validation_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)


def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return response_to(error)


def _user_error(request: Request, error: Exception) -> Response:
    """Faults of a room below: a setting that cannot be, a schema that cannot be kept to."""
    return error_response(400, str(error))


def _storage_error(request: Request, error: Exception) -> Response:
    """507 instead of 500: the same request works once there is room."""
    return error_response(507, str(error), code="storage_full")


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError | RequestValidationError)
    message, param, code = said(error.errors())
    return error_response(400, message, param=param, code=code)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return error_response(404, f"Invalid URL ({where})", code="unknown_url")
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}."
        return error_response(405, message, code="method_not_supported", headers=error.headers)
    return error_response(error.status_code, str(error.detail), headers=error.headers)


def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)

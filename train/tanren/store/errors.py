"""What a client of the queue can do wrong; `code` and `param` are those of OpenAI's errors."""

from __future__ import annotations

from tanren.errors import UserError


class RequestError(UserError):
    """Base of the errors below. `status`: the HTTP status that stands for it."""

    status = 400

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class InvalidRequest(RequestError):
    """A value that cannot be, or that names what is not there."""


class InvalidState(RequestError):
    """The job is in a state that does not allow it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code="invalid_job_state")


class Conflict(RequestError):
    """Something else needs what was to be changed or removed."""


class Unauthorized(RequestError):
    """No key, or one that is unknown, expired or revoked."""

    status = 401


class Forbidden(RequestError):
    """Nobody may do this, or this key may not."""

    status = 403


class NotFound(RequestError):
    """There is nothing of that name."""

    status = 404


class TooLarge(RequestError):
    """More bytes than are taken."""

    status = 413


class LimitExceeded(RequestError):
    """Too much at once; later it may be taken. `retry_after`: seconds."""

    status = 429

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 1.0,
        param: str | None = None,
        code: str | None = "rate_limit_exceeded",
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after

"""`/v1/files`."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tanren.api.document import form_of
from tanren.api.form import Form, read_form
from tanren.api.objects import DeletedFile, File, NamedList
from tanren.jobs.service import JobService
from tanren.store.errors import InvalidRequest, NotFound
from tanren.store.files import PURPOSES, FileReceiver

_OCTETS = "application/octet-stream"
_SENT_AT_ONCE = 3 * 64 * 1024
_FORM = form_of(
    {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": [*PURPOSES, "fine_tune"]},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
    },
    ["file", "purpose"],
)
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}


def routes(service: JobService) -> APIRouter:
    router = APIRouter(tags=["Files"])

    @router.post("/v1/files", openapi_extra=_FORM)
    async def create_file(request: Request) -> File:
        receiver = await run_in_threadpool(service.files.receive)
        with receiver:
            form = await read_form(request, "file", receiver)
            _describe(receiver, form)
            return File.of(await run_in_threadpool(receiver.commit))

    @router.get("/v1/files")
    def list_files(
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> NamedList[File]:
        page = service.files.list(
            purpose=purpose or None,
            limit=limit,
            after=after or None,
            newest_first=order == "desc",
        )
        ends = [page.items[at].id for at in (0, -1)] if page.items else [None, None]
        return NamedList[File](
            data=[File.of(record) for record in page.items],
            has_more=page.has_more,
            first_id=ends[0],
            last_id=ends[1],
        )

    @router.get("/v1/files/{file_id}")
    def retrieve_file(file_id: str) -> File:
        return File.of(service.files.get(file_id))

    @router.delete("/v1/files/{file_id}")
    def delete_file(file_id: str) -> DeletedFile:
        service.files.delete(file_id)
        return DeletedFile(id=file_id)

    @router.get(
        "/v1/files/{file_id}/content", responses=_BYTES, response_class=Response
    )  # fmt: skip
    def retrieve_file_content(file_id: str, encoding: Literal["base64"] | None = None) -> Response:
        service.files.get(file_id)
        try:
            file = open(service.files.path(file_id), "rb")  # noqa: SIM115 - closed when it was sent
        except FileNotFoundError:  # deleted this moment
            raise NotFound(f"No such File object: {file_id}", param="id") from None
        if encoding == "base64":
            return StreamingResponse(_as_base64(file), media_type=_OCTETS)
        size = str(os.fstat(file.fileno()).st_size)
        return StreamingResponse(
            _as_it_is(file), media_type=_OCTETS, headers={"content-length": size}
        )

    return router


def _describe(receiver: FileReceiver, form: Form) -> None:
    """What stood beside the file in the form. Raises InvalidRequest."""
    if "purpose" not in form.fields:
        message = "Missing required parameter: 'purpose'."
        raise InvalidRequest(message, param="purpose", code="missing_required_parameter")
    receiver.filename = form.filename or "upload"
    receiver.purpose = form.fields["purpose"]
    receiver.expires_after = _expiry(form.fields)


def _expiry(fields: dict[str, str]) -> int | None:
    anchor = fields.get("expires_after[anchor]", "created_at")
    seconds = fields.get("expires_after[seconds]")
    if anchor != "created_at":
        message = "Invalid value for 'expires_after[anchor]'. Supported values are: 'created_at'."
        raise InvalidRequest(message, param="expires_after", code="invalid_value")
    if seconds is None:
        return None
    if not seconds.isascii() or not seconds.isdigit() or len(seconds) > 12:
        message = "Invalid type for 'expires_after[seconds]': expected an integer."
        raise InvalidRequest(message, param="expires_after", code="invalid_type")
    return int(seconds)


def _as_it_is(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_SENT_AT_ONCE):
            yield chunk


def _as_base64(file: BinaryIO) -> Iterator[bytes]:
    """As OpenAI's own result files come. Pieces of a multiple of three bytes fit together."""
    with file:
        while chunk := file.read(_SENT_AT_ONCE):
            yield base64.b64encode(chunk)

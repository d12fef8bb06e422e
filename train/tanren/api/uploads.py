"""`/v1/uploads`: a file in parts."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tanren.api.bodies import read_body
from tanren.api.document import body_of, form_of
from tanren.api.form import read_form
from tanren.api.objects import Upload, UploadPart
from tanren.jobs.service import JobService

_PART = form_of({"data": {"type": "string", "format": "binary"}}, ["data"])


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ExpiresAfter(_Body):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class UploadBody(_Body):
    filename: Annotated[str, Field(min_length=1)]
    purpose: str
    bytes: Annotated[int, Field(ge=1)]
    mime_type: str
    expires_after: ExpiresAfter | None = None


class CompleteBody(_Body):
    part_ids: Annotated[list[str], Field(min_length=1)]
    md5: str | None = None


def routes(service: JobService) -> APIRouter:
    router = APIRouter(tags=["Uploads"])
    uploads = service.uploads

    @router.post("/v1/uploads", openapi_extra=body_of(UploadBody))
    async def create_upload(request: Request) -> Upload:
        body = await read_body(request, UploadBody)

        def create() -> Upload:
            return Upload.of(
                uploads.create(
                    filename=body.filename,
                    purpose=body.purpose,
                    bytes=body.bytes,
                    mime_type=body.mime_type,
                    expires_after=body.expires_after.seconds if body.expires_after else None,
                )
            )

        return await run_in_threadpool(create)

    @router.post("/v1/uploads/{upload_id}/parts", openapi_extra=_PART)
    async def add_upload_part(upload_id: str, request: Request) -> UploadPart:
        receiver = await run_in_threadpool(uploads.add_part, upload_id)
        with receiver:
            await read_form(request, "data", receiver)
            part = await run_in_threadpool(receiver.commit)
        return UploadPart(id=part.id, created_at=part.created_at, upload_id=upload_id)

    @router.post("/v1/uploads/{upload_id}/complete", openapi_extra=body_of(CompleteBody))
    async def complete_upload(upload_id: str, request: Request) -> Upload:
        body = await read_body(request, CompleteBody)
        done = await run_in_threadpool(uploads.complete, upload_id, body.part_ids, body.md5)
        return Upload.of(done)

    @router.post("/v1/uploads/{upload_id}/cancel")
    def cancel_upload(upload_id: str) -> Upload:
        return Upload.of(uploads.cancel(upload_id))

    return router

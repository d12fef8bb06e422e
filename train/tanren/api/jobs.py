"""`/v1/fine_tuning/jobs`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams

from tanren.api.bodies import read_body
from tanren.api.document import body_of
from tanren.api.job_body import JobBody
from tanren.api.objects import Checkpoint, Event, Job, ListOf, NamedList
from tanren.api.watch import seen
from tanren.jobs.service import JobService
from tanren.store.errors import InvalidRequest

_PATH = "/v1/fine_tuning/jobs"
_MOST = 10_000
_LONGEST_KEY = 255

After = Annotated[str | None, Query(description="Items that follow this one.")]
StartingAfter = Annotated[str | None, Query(description="`after` as it was called in 2023.")]


class MoveBody(BaseModel):
    """One of the three."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    priority: int | None = None
    before: str | None = None
    to_front: bool = False


def routes(service: JobService) -> APIRouter:
    router = APIRouter(tags=["Fine-tuning"])
    _add_creation(router, service)
    _add_reading(router, service)
    _add_control(router, service)
    return router


def _add_creation(router: APIRouter, service: JobService) -> None:
    @router.post(_PATH, openapi_extra=body_of(JobBody))
    async def create_fine_tuning_job(
        request: Request, idempotency_key: Annotated[str | None, Header()] = None
    ) -> Job:
        body = await read_body(request, JobBody)
        if body.model_extra:
            seen(request.scope).noted["ignored_parameters"] = len(body.model_extra)
        if idempotency_key is not None and len(idempotency_key) > _LONGEST_KEY:
            message = f"An Idempotency-Key has at most {_LONGEST_KEY} characters."
            raise InvalidRequest(message, param="Idempotency-Key", code="invalid_value")
        asked = body.request()
        key = idempotency_key or None

        def create() -> Job:
            return Job.of(service.jobs.create(asked, client_key=key))

        return await run_in_threadpool(create)


def _add_reading(router: APIRouter, service: JobService) -> None:
    @router.get(_PATH)
    def list_fine_tuning_jobs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 20,
        after: After = None,
        starting_after: StartingAfter = None,
    ) -> ListOf[Job]:
        wanted, without = metadata_filter(request.query_params)
        page = service.jobs.list(
            limit=limit,
            after=after or starting_after or None,
            metadata=wanted,
            without_metadata=without,
        )
        return ListOf[Job](data=[Job.of(each) for each in page.items], has_more=page.has_more)

    @router.get(_PATH + "/{job_id}")
    def retrieve_fine_tuning_job(job_id: str) -> Job:
        return Job.of(service.jobs.get(job_id))

    @router.get(_PATH + "/{job_id}/events")
    def list_fine_tuning_events(
        job_id: str,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 20,
        after: After = None,
        starting_after: StartingAfter = None,
    ) -> ListOf[Event]:
        page = service.jobs.events(job_id, limit=limit, after=after or starting_after or None)
        return ListOf[Event](data=[Event.of(each) for each in page.items], has_more=page.has_more)

    @router.get(_PATH + "/{job_id}/checkpoints")
    def list_fine_tuning_job_checkpoints(
        job_id: str,
        limit: Annotated[int, Query(ge=1, le=_MOST)] = 10,
        after: After = None,
        starting_after: StartingAfter = None,
    ) -> NamedList[Checkpoint]:
        page = service.jobs.checkpoints(
            job_id, limit=limit, after=after or starting_after or None
        )  # fmt: skip
        return NamedList[Checkpoint](
            data=[Checkpoint.of(each) for each in page.items],
            has_more=page.has_more,
            first_id=page.items[0].id if page.items else None,
            last_id=page.items[-1].id if page.items else None,
        )


def _add_control(router: APIRouter, service: JobService) -> None:
    @router.post(_PATH + "/{job_id}/cancel")
    def cancel_fine_tuning_job(job_id: str) -> Job:
        return Job.of(service.jobs.cancel(job_id))

    @router.post(_PATH + "/{job_id}/pause")
    def pause_fine_tuning_job(job_id: str) -> Job:
        return Job.of(service.jobs.pause(job_id))

    @router.post(_PATH + "/{job_id}/resume")
    def resume_fine_tuning_job(job_id: str) -> Job:
        return Job.of(service.jobs.resume(job_id))

    @router.post(_PATH + "/{job_id}/move", openapi_extra=body_of(MoveBody))
    async def move_fine_tuning_job(job_id: str, request: Request) -> Job:
        """Not of OpenAI's API: another priority, or another place among the waiting jobs."""
        body = await read_body(request, MoveBody)

        def move() -> Job:
            return Job.of(
                service.jobs.move(
                    job_id,
                    priority=body.priority,
                    before=body.before,
                    to_front=body.to_front,
                )
            )

        return await run_in_threadpool(move)


def metadata_filter(query: QueryParams) -> tuple[dict[str, str] | None, bool]:
    """Pairs that jobs must have, and whether they must have no metadata: `metadata[k]=v`;
    `metadata=null`, which Node writes as `metadata=`.
    """
    wanted = {
        name[len("metadata[") : -1]: value
        for name, value in query.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    return wanted or None, query.get("metadata") in ("null", "")

"""`POST /v1/chat/completions`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tanren.api.answering import Answering, Engine, lines, whole
from tanren.api.bodies import read_json
from tanren.api.chat_body import ChatBody, engine_request, read_chat
from tanren.api.completion import Head, Used
from tanren.api.document import body_of
from tanren.api.errors import CLIENT_LEFT
from tanren.api.limits import Patience
from tanren.api.metrics import Metrics
from tanren.api.watch import seen
from tanren.engine.wire import Target
from tanren.jobs.service import JobService
from tanren.store.errors import NotFound


def routes(
    service: JobService, engine: Engine | None, metrics: Metrics, patience: Patience
) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions", openapi_extra=body_of(ChatBody), tags=["Chat"])
    async def create_chat_completion(request: Request) -> Response:
        return await answer(request, read_json(await request.body()))

    @router.post("/v1/engines/{engine:path}/chat/completions", include_in_schema=False)
    async def create_by_engine(request: Request) -> Response:
        """How `engine=` of the client of 2023 asks."""
        raw = {"model": request.path_params["engine"], **read_json(await request.body())}
        return await answer(request, raw)

    async def answer(request: Request, raw: dict[str, Any]) -> Response:
        body, messages = read_chat(raw)
        if engine is None:
            raise NotFound("This service trains only: serving.enabled is false in its settings.")
        target, model = await run_in_threadpool(_target, service, body.model)
        asked = engine_request(secrets.token_hex(16), body, messages, target)
        answering = Answering(engine, asked, _head(body, model))
        noted = seen(request.scope).noted
        noted.update(model=model, stream=bool(body.stream), choices=asked.choices)
        if body.model_extra:
            noted["ignored_parameters"] = len(body.model_extra)
        counted = _Counted(answering, metrics, noted)
        if body.stream:
            return await _streamed(body, counted, patience)
        return await _whole(request, counted)

    return router


def _target(service: JobService, name: str) -> tuple[Target, str]:
    """What answers, and the name that stands in its answers."""
    record = service.models.get(name)
    return service.models.target(name), record.base if record.kind == "alias" else record.id


def _head(body: ChatBody, model: str) -> Head:
    return Head(
        model=model,
        legacy_calls=body.legacy,
        one_call=body.one_call,
        named_call=isinstance(body.choice, dict) and not body.legacy,
        logprobs=body.logprobs is True,
    )


class _Counted:
    """An answer whose tokens are counted when it ends, whichever way."""

    def __init__(self, answering: Answering, metrics: Metrics, noted: dict[str, Any]) -> None:
        self.answering = answering
        self._metrics = metrics
        self._noted = noted

    def __enter__(self) -> Answering:
        return self.answering

    def __exit__(self, *_: object) -> None:
        used: Used = self.answering.used
        self._metrics.tokens(prompt=used.prompt, completion=used.completion)
        self._noted.update(prompt_tokens=used.prompt, completion_tokens=used.completion)


async def _whole(request: Request, counted: _Counted) -> Response:
    with counted as answering:
        document = await whole(answering, request)
    return Response(status_code=CLIENT_LEFT) if document is None else JSONResponse(document)


async def _streamed(body: ChatBody, counted: _Counted, patience: Patience) -> Response:
    """The first word is waited for, so that a refusal comes with its own status."""
    await counted.answering.first(patience.first_word)

    async def content() -> AsyncIterator[str]:
        with counted as answering:
            async for line in lines(answering, body.include_usage, patience.keep_alive):
                yield line

    return StreamingResponse(
        content(), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )

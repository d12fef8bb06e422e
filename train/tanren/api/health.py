"""Whether the service lives, whether it can work, and its numbers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from tanren.api.errors import error_response
from tanren.api.metrics import CONTENT_TYPE, Metrics
from tanren.errors import StorageError
from tanren.jobs.service import JobService


class Health(BaseModel):
    status: Literal["ok"] = "ok"


def routes(service: JobService, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["Service"])

    @router.get("/healthz")
    async def live() -> Health:
        """The process answers."""
        return Health()

    @router.get("/readyz", response_model=Health)
    def ready() -> Health | Response:
        """The database answers too."""
        try:
            service.jobs.counts()
        except StorageError:
            return error_response(507, "The database does not answer.", code="not_ready")
        return Health()

    @router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router

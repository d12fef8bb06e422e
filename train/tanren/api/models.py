"""`/v1/models`. Names hold colons and slashes, written as they are or percent-encoded."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks

from tanren.api.answering import Engine
from tanren.api.objects import DeletedModel, Model, Models
from tanren.jobs.service import JobService


def routes(service: JobService, engine: Engine | None) -> APIRouter:
    router = APIRouter(tags=["Models"])

    @router.get("/v1/models")
    def list_models() -> Models:
        return Models(data=[Model.of(record) for record in service.models.list()])

    @router.get("/v1/models/{model:path}")
    def retrieve_model(model: str) -> Model:
        return Model.of(service.models.get(model))

    @router.delete("/v1/models/{model:path}")
    def delete_model(model: str, afterwards: BackgroundTasks) -> DeletedModel:
        folder = service.models.get(model).folder
        service.models.delete(model)
        if engine is not None and folder is not None:
            afterwards.add_task(engine.unload, folder)
        return DeletedModel(id=model)

    return router

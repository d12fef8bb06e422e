"""The application: rooms put together, with what stands around every request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tanren import __version__
from tanren.api import chat, errors, files, health, jobs, models, uploads
from tanren.api.answering import Engine
from tanren.api.chat_body import ChatBody
from tanren.api.document import Application
from tanren.api.guard import Guard
from tanren.api.job_body import JobBody
from tanren.api.limits import BodyLimit, Patience
from tanren.api.metrics import Gauge, Metrics
from tanren.api.watch import Watch
from tanren.jobs.service import JobService


def create_app(
    service: JobService,
    engine: Engine | None,
    *,
    gauges: Sequence[Gauge] = (),
    patience: Patience | None = None,
) -> Application:
    """The API over this service. `engine` None: it trains only. `gauges`: more numbers for
    `/metrics` than those of the queue. The caller starts and closes service and engine.
    """
    config, patience = service.config, patience or Patience()
    metrics = Metrics([_jobs_by_state(service), *gauges])
    app = Application(
        title="tanren",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(files.routes(service))
    app.include_router(uploads.routes(service))
    app.include_router(jobs.routes(service))
    app.include_router(models.routes(service, engine))
    app.include_router(chat.routes(service, engine, metrics, patience))
    app.include_router(health.routes(service, metrics))
    app.forms = (ChatBody, JobBody, jobs.MoveBody, uploads.UploadBody, uploads.CompleteBody)
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, limits=config.limits, seconds=patience.body)
    app.add_middleware(Guard, config=config, keys=service.keys)
    app.add_middleware(Watch, metrics=metrics, organization=config.organization)
    return app


def _jobs_by_state(service: JobService) -> Gauge:
    def read() -> Mapping[str, float]:
        return {status: float(number) for status, number in service.jobs.counts().items()}

    return Gauge("tanren_jobs", "Fine-tuning jobs by state.", "status", read)

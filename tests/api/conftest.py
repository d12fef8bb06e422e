"""A service in a folder of its own, its API without a socket, and answers checked as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from api.openai_schema import check
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.api.app import create_app
from tanren.jobs.service import JobService
from tanren.store.settings import Base, Limits, ServiceConfig

TINY = Path(__file__).resolve().parents[2] / "data" / "tiny-chat"


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., JobService]]:
    """`make_service(limits={...}, **settings)`: in a folder that lasts as long as the test."""
    made: list[JobService] = []

    def make(limits: dict[str, Any] | None = None, **settings: Any) -> JobService:
        base = Base(id="tiny", name=str(TINY), aliases=("gpt-4o-mini", "org/alias"))
        config = ServiceConfig(
            folder=str(tmp_path / "service"),
            models=(base,),
            limits=Limits(**limits or {}),
            **settings,
        )
        made.append(JobService(config))
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def service(make_service: Callable[..., JobService]) -> JobService:
    return make_service()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


def checked(response: httpx2.Response) -> None:
    """For a client's event hooks: OpenAI's schema, whatever the test looks at."""
    if response.headers.get("content-type", "").startswith("application/json"):
        request = response.request
        check(request.method, request.url.path, response.status_code, response.read())


def client_of(
    service: JobService,
    engine: ScriptedEngine | None,
    *,
    address: str = "127.0.0.1",
    **options: Any,
) -> TestClient:
    app = create_app(service, engine, **options)
    client = TestClient(
        app,
        base_url="http://127.0.0.1:8000",
        raise_server_exceptions=False,
        client=(address, 50_000),
    )
    client.event_hooks["response"].append(checked)
    return client


@pytest.fixture
def client(service: JobService, engine: ScriptedEngine) -> Iterator[TestClient]:
    with client_of(service, engine) as made:
        yield made

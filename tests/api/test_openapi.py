"""The OpenAPI document: true enough that a tool which only knows the document finds nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from api.scripted import ScriptedEngine
from starlette.testclient import TestClient

from tanren.api.app import create_app
from tanren.jobs.service import JobService

EXAMPLES = 12
"""Requests for each operation; with --slow many more."""


def test_every_route_of_the_contract_stands_in_it(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    jobs = "/v1/fine_tuning/jobs"
    expected = {
        "/v1/files": {"get", "post"},
        "/v1/files/{file_id}": {"get", "delete"},
        "/v1/files/{file_id}/content": {"get"},
        "/v1/uploads": {"post"},
        "/v1/uploads/{upload_id}/parts": {"post"},
        "/v1/uploads/{upload_id}/complete": {"post"},
        "/v1/uploads/{upload_id}/cancel": {"post"},
        jobs: {"get", "post"},
        jobs + "/{job_id}": {"get"},
        jobs + "/{job_id}/events": {"get"},
        jobs + "/{job_id}/checkpoints": {"get"},
        jobs + "/{job_id}/cancel": {"post"},
        jobs + "/{job_id}/pause": {"post"},
        jobs + "/{job_id}/resume": {"post"},
        jobs + "/{job_id}/move": {"post"},
        "/v1/models": {"get"},
        "/v1/models/{model}": {"get", "delete"},
        "/v1/chat/completions": {"post"},
        "/healthz": {"get"},
        "/readyz": {"get"},
        "/metrics": {"get"},
    }
    assert {path: set(each) for path, each in document["paths"].items()} == expected


def test_its_references_lead_somewhere(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    found = set(_references(document))
    assert found and all(
        reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
        for reference in found
    )
    assert not any(
        "422" in op["responses"] for p in document["paths"].values() for op in p.values()
    )


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    return (
        [found for inner in value for found in _references(inner)]
        if isinstance(value, list)
        else []
    )


def test_schemathesis_finds_nothing(
    make_service: Callable[..., JobService], engine: ScriptedEngine, request: pytest.FixtureRequest
) -> None:
    """Requests made from the document, good and bad: no 500, and every answer is one that the
    document promises, of the type and form that it promises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        import schemathesis
        from hypothesis import HealthCheck, Phase, given, settings

    service = make_service(allowed_hosts=("testserver",))  # what its client calls it
    app = create_app(service, engine)
    examples = EXAMPLES * 20 if request.config.getoption("--slow") else EXAMPLES
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    asked = 0
    for operation in schema.get_all_operations():

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.ok().as_strategy())
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=checks)

        ask()
    assert asked > 100

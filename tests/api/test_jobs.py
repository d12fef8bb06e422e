"""Fine-tuning jobs over HTTP, before anybody works on them; models and their names."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def file(client: TestClient) -> str:
    sent = client.post("/v1/files", files={"file": ("a", b"{}\n")}, data={"purpose": "fine-tune"})
    return str(sent.json()["id"])


def create(client: TestClient, file: str, **body: Any) -> Any:
    return client.post(JOBS, json={"model": "tiny", "training_file": file, **body})


def test_a_new_job_has_every_field(client: TestClient, file: str) -> None:
    job = create(client, file, model="gpt-4o-mini", suffix="x", metadata={"a": "b"}).json()
    assert job["status"] == "validating_files" and job["object"] == "fine_tuning.job"
    assert job["model"] == "tiny", "what the alias means"
    assert job["error"] is None and job["fine_tuned_model"] is None and job["finished_at"] is None
    assert job["result_files"] == [] and job["trained_tokens"] is None
    assert job["hyperparameters"] == {
        "n_epochs": "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    assert job["method"]["type"] == "supervised"
    assert job["metadata"] == {"a": "b"} and job["user_provided_suffix"] == "x"
    assert 0 <= job["seed"] < 2**31 and job["organization_id"] == "personal"
    assert {"validation_file", "estimated_finish", "integrations", "tanren"} <= set(job)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"hyperparameters": {"n_epochs": 3}}, 3),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}}, 4),
        ({"hyperparameters": {"n_epochs": 3},
          "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 4}}}}, 4),
        ({"hyperparameters": {"n_epochs": 3}, "method": {"type": "supervised"}}, 3),
        ({"hyperparameters": None, "method": {"type": "supervised", "supervised": None}}, "auto"),
    ],
)  # fmt: skip
def test_the_method_wins_over_the_old_field(
    client: TestClient, file: str, body: dict[str, Any], expected: Any
) -> None:
    job = create(client, file, **body).json()
    assert job["hyperparameters"]["n_epochs"] == expected
    assert job["method"]["supervised"]["hyperparameters"]["n_epochs"] == expected


@pytest.mark.parametrize(
    "body",
    [
        {"tanren": {"rank": 4, "priority": 3}},
        {"method": {"tanren": {"rank": 4, "priority": 3}}},
        {
            "method": {"type": "supervised", "tanren": {"rank": 4}},
            "tanren": {"rank": 8, "priority": 3},
        },
    ],
)
def test_our_own_settings_come_in_either_place(
    client: TestClient, file: str, body: dict[str, Any]
) -> None:
    own = create(client, file, **body).json()["tanren"]
    assert own["priority"] == 3 and 4 in own["settings"].values(), own


def test_a_preference_job_says_its_method(client: TestClient, file: str) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    job = create(client, file, method=method).json()
    assert job["method"]["type"] == "dpo"
    assert job["method"]["dpo"]["hyperparameters"]["beta"] == 0.2
    assert "supervised" not in job["method"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 5}, "model"),
        ({"training_file": None}, "training_file"),
        ({"suffix": 5}, "suffix"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"metadata": "x"}, "metadata"),
        ({"method": {}}, "method.type"),
        ({"method": {"type": 5}}, "method.type"),
        ({"method": {"type": "grpo"}}, "method"),
        ({"method": {"type": "supervised", "supervised": []}}, "method.supervised"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": 5}}},
         "method.supervised.hyperparameters"),
        ({"hyperparameters": {"epochs": 5}}, "hyperparameters"),
        ({"integrations": [5]}, "integrations[0]"),
        ({"tanren": "x"}, "tanren"),
    ],
)  # fmt: skip
def test_forms_that_no_job_has(
    client: TestClient, file: str, body: dict[str, Any], param: str
) -> None:
    answer = create(client, file, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param, answer.text


def test_pages_newest_first_in_both_spellings(client: TestClient, file: str) -> None:
    made = [create(client, file).json()["id"] for _ in range(5)]
    for after in ("after", "starting_after"):
        seen, params = [], {"limit": "2"}
        while True:
            page = client.get(JOBS, params=params).json()
            seen += [job["id"] for job in page["data"]]
            if not page["data"]:
                break
            assert len(seen) <= len(made), "each page goes on where the last one ended"
            params[after] = seen[-1]
        assert seen == made[::-1]
        assert page["has_more"] is False, "what comes after the last one is nothing"
    assert client.get(JOBS, params={"limit": 4}).json()["has_more"] is True
    assert client.get(JOBS, params={"after": "ftjob-nobody"}).status_code == 400


def test_metadata_filters_in_every_spelling(client: TestClient, file: str) -> None:
    plain = create(client, file).json()["id"]
    marked = create(client, file, metadata={"a": "b", "c": "d"}).json()["id"]
    for query, expected in (
        ("metadata[a]=b", [marked]),
        ("metadata%5Ba%5D=b&metadata%5Bc%5D=d", [marked]),
        ("metadata[a]=b&metadata[c]=x", []),
        ("metadata=null", [plain]),
        ("metadata=", [plain]),
        ("", [marked, plain]),
    ):
        assert [job["id"] for job in client.get(f"{JOBS}?{query}").json()["data"]] == expected, (
            query
        )


def test_cancel_pause_and_resume_need_no_body(client: TestClient, file: str) -> None:
    """Clients send an empty one and call it JSON."""
    job = create(client, file).json()["id"]
    headers = {"content-type": "application/json"}
    refused = client.post(f"{JOBS}/{job}/resume", headers=headers)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_job_state"
    assert refused.headers["x-should-retry"] == "false"
    done = client.post(f"{JOBS}/{job}/cancel", headers=headers)
    assert done.json()["status"] == "cancelled" and done.json()["error"] is None
    events = client.get(f"{JOBS}/{job}/events").json()["data"]
    assert events[-1]["message"] == f"Created fine-tuning job: {job}"
    assert client.get(f"{JOBS}/{job}/checkpoints").json() == {
        "object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None
    }  # fmt: skip


@pytest.mark.parametrize("path", ["", "/cancel", "/pause", "/resume", "/events", "/checkpoints"])
def test_jobs_that_are_not_there(client: TestClient, path: str) -> None:
    post = path in ("/cancel", "/pause", "/resume")
    answer = client.request("POST" if post else "GET", f"{JOBS}/ftjob-nobody{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "fine_tune_not_found"


def test_a_waiting_job_moves(client: TestClient, file: str) -> None:
    first, second = (create(client, file).json()["id"] for _ in range(2))
    moved = client.post(f"{JOBS}/{second}/move", json={"priority": 5}).json()
    assert moved["tanren"]["priority"] == 5
    assert client.post(f"{JOBS}/{first}/move", json={"to_front": True}).status_code == 200
    for wrong in ({}, {"priority": 1, "to_front": True}, {"prioritty": 1}, {"priority": "high"}):
        assert client.post(f"{JOBS}/{first}/move", json=wrong).status_code == 400


def test_the_same_key_gives_the_same_job(client: TestClient, file: str) -> None:
    body = {"model": "tiny", "training_file": file}
    headers = {"Idempotency-Key": "k"}
    first, again = (client.post(JOBS, json=body, headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"] and first["seed"] == again["seed"]
    other = client.post(JOBS, json={**body, "suffix": "y"}, headers=headers)
    assert other.status_code == 400
    assert client.post(JOBS, json=body, headers={"Idempotency-Key": "k" * 256}).status_code == 400


@pytest.mark.parametrize("name", ["tiny", "gpt-4o-mini", "org/alias", "org%2Falias"])
def test_models_by_names_with_slashes_and_colons(client: TestClient, name: str) -> None:
    model = client.get(f"/v1/models/{name}").json()
    assert model["id"] == name.replace("%2F", "/") and model["object"] == "model"
    refused = client.delete(f"/v1/models/{name}")
    assert refused.status_code == 403


def test_unknown_models(client: TestClient) -> None:
    for name in ("ft:a::b", "ft%3Aa%3A%3Ab", "Qwen%2FQwen3"):
        for answer in (client.get(f"/v1/models/{name}"), client.delete(f"/v1/models/{name}")):
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "model_not_found"

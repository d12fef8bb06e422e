"""Flows that train more than once, or end the server in the middle."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from api.conftest import checked
from api.serving import ENDED, ROOT, Server, serving, wait_for

pytestmark = pytest.mark.slow

LINES = (ROOT / "data" / "taro.jsonl").read_bytes().splitlines(keepends=True)
USER: Any = [{"role": "user", "content": "太郎、傘を貸してくれる?"}]
SHORT: Any = {"n_epochs": 2, "batch_size": 5}


def client_of(server: Server) -> openai.OpenAI:
    passing = openai.DefaultHttpxClient(event_hooks={"response": [checked]})
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", http_client=passing)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def create(client: openai.OpenAI, *lines: bytes, **body: Any) -> str:
    file = client.files.create(file=b"".join(lines or LINES[:10]), purpose="fine-tune")
    body = {"model": "gpt-4o-mini", "hyperparameters": SHORT, "seed": 7, **body}
    return client.fine_tuning.jobs.create(training_file=file.id, **body).id


def finished(client: openai.OpenAI, job: str) -> Any:
    wait_for(lambda: client.fine_tuning.jobs.retrieve(job), seconds=300)
    return client.fine_tuning.jobs.retrieve(job)


def losses(client: openai.OpenAI, job: str) -> list[float]:
    events = client.fine_tuning.jobs.list_events(job, limit=1000).data
    return [event.data["train_loss"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]


def test_a_model_without_a_suffix_answers(client: openai.OpenAI) -> None:
    """Case 2; and case 28 with the model itself."""
    job = finished(client, create(client))
    assert job.status == "succeeded", job.error
    name = job.fine_tuned_model
    assert name.startswith("ft:tiny-chat:personal::")
    assert client.chat.completions.create(model=name, messages=USER).model == name
    assert client.models.delete(name).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=name, messages=USER)


def test_the_same_seed_and_data_give_the_same_losses(client: openai.OpenAI) -> None:
    """Case 29."""
    jobs = [create(client), create(client), create(client, seed=8)]
    told = [losses(client, finished(client, job).id) for job in jobs]
    assert told[0] == told[1] != told[2] and len(told[0]) == 4


def test_a_message_of_weight_0_teaches_nothing(client: openai.OpenAI) -> None:
    """Case 12 (T27): what it says makes no difference to the loss."""

    def lines(early_answer: str) -> list[bytes]:
        rows = []
        for line in LINES[:10]:
            messages = json.loads(line)["messages"]
            early = [
                {"role": "user", "content": "はい?"},
                {"role": "assistant", "content": early_answer, "weight": 0},
            ]
            system = [m for m in messages if m["role"] == "system"]
            rest = [m for m in messages if m["role"] != "system"]
            row = {"messages": [*system, *early, *rest]}
            rows.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return rows

    counted = [finished(client, create(client, *lines("うん。"))).trained_tokens,
               finished(client, create(client)).trained_tokens]  # fmt: skip
    assert counted[0] > counted[1], "billed as OpenAI does: whole examples"


def test_preferences_are_trained(client: openai.OpenAI) -> None:
    """Case 23."""
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"{number}番の傘は?"}]},
            "preferred_output": [{"role": "assistant", "content": "いいよ、使って。"}],
            "non_preferred_output": [{"role": "assistant", "content": "だめ。"}],
        }
        for number in range(10)
    ]
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {**SHORT, "beta": 0.2}}}
    job = finished(client, create(client, *lines, hyperparameters=None, method=method))
    assert job.status == "succeeded", job.error
    assert job.method.type == "dpo"
    first = losses(client, job.id)[0]
    assert first == pytest.approx(0.6931, abs=0.01), "ln 2 before anything was learnt"


def test_a_paused_job_goes_on_in_the_next_server(tmp_path: Path) -> None:
    """Case 21: and as if nobody had paused it."""
    with serving(tmp_path) as server, client_of(server) as client:
        straight = finished(
            client, create(client, hyperparameters={"n_epochs": 8, "batch_size": 2})
        )
        job = create(client, hyperparameters={"n_epochs": 8, "batch_size": 2})
        wait_for(lambda: client.fine_tuning.jobs.retrieve(job), until=("running", *ENDED))
        while not losses(client, job):
            pass
        client.fine_tuning.jobs.pause(job)
        states = wait_for(lambda: client.fine_tuning.jobs.retrieve(job), until=("paused", *ENDED))
        assert states[-1] == "paused" and set(states) <= {"pausing", "paused"}
        assert server.stop() == 0
    with serving(tmp_path) as server, client_of(server) as client:
        assert client.fine_tuning.jobs.retrieve(job).status == "paused"
        client.fine_tuning.jobs.resume(job)
        done = finished(client, job)
        assert done.status == "succeeded", done.error
        assert losses(client, job) == losses(client, straight.id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_in_the_middle_loses_nothing(tmp_path: Path, number: int) -> None:
    """Asked, its job saves a checkpoint; killed, its job works on and is followed again."""
    with serving(tmp_path) as server, client_of(server) as client:
        job = create(client, hyperparameters={"n_epochs": 8, "batch_size": 2})
        wait_for(lambda: client.fine_tuning.jobs.retrieve(job), until=("running", *ENDED))
        while len(losses(client, job)) < 3:
            pass
        server.stop(number)
    with serving(tmp_path) as server, client_of(server) as client:
        assert client.fine_tuning.jobs.retrieve(job).status in ("running", "succeeded")
        done = finished(client, job)
        assert done.status == "succeeded", done.error
        events = list(client.fine_tuning.jobs.list_events(job, limit=10))
        steps = [event.data["step"] for event in reversed(events) if event.type == "metrics"]  # type: ignore[index]
        assert steps == list(range(1, 41)), "each step once"
        answer = client.chat.completions.create(model=done.fine_tuned_model, messages=USER)
        assert answer.choices[0].message.content is not None

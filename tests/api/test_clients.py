"""Real clients over a real socket: `tanren serve` with the tiny chat model, asked by the newest
official Python client (each answer checked against OpenAI's schema as it passes), by older ones, by
that of 2023, and by Node's.

One server and one short job serve all tests. What takes longer stands in `test_long_flows.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from api.conftest import checked
from api.official_clients import NODE, PYTHON, Client, node_client, python_client
from api.serving import ENDED, ROOT, Server, serving, wait_for
from openai.types.fine_tuning import FineTuningJob
from pydantic import BaseModel, Field

FLOWS = Path(__file__).with_name("flows")
TRAIN = (ROOT / "data" / "taro.jsonl").read_bytes().splitlines(keepends=True)
USER: Any = [{"role": "user", "content": "太郎、傘を貸してくれる?"}]


@dataclass(frozen=True)
class Tuned:
    """A job of 5 epochs of 3 steps each, and what was seen of it on its way."""

    job: FineTuningJob
    states: list[str]
    errors_on_the_way: list[Any]
    train: Path

    @property
    def model(self) -> str:
        assert self.job.fine_tuned_model is not None
        return self.job.fine_tuned_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    passing = openai.DefaultHttpxClient(event_hooks={"response": [checked]})
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", http_client=passing) as made:
        yield made


def upload(client: openai.OpenAI, *lines: bytes) -> str:
    return client.files.create(file=b"".join(lines), purpose="fine-tune").id


@pytest.fixture(scope="module")
def tuned(client: openai.OpenAI, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    train = tmp_path_factory.mktemp("data") / "学習.jsonl"
    train.write_bytes(b"".join(TRAIN[:10]))
    with open(train, "rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    created = client.fine_tuning.jobs.create(
        model="gpt-4o-mini",
        training_file=uploaded.id,
        validation_file=upload(client, *TRAIN[10:13]),
        suffix="my-x",
        seed=7,
        metadata={"owner": "太郎"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 5, "batch_size": 4}},
        },
    )
    assert created.status == "validating_files" and created.fine_tuned_model is None
    errors: list[Any] = []

    def look() -> FineTuningJob:
        now = client.fine_tuning.jobs.retrieve(created.id)
        errors.append(now.error)
        return now

    states = wait_for(look)
    return Tuned(client.fine_tuning.jobs.retrieve(created.id), states, errors, train)


# --- the job --------------------------------------------------------------------------------------


def test_states_follow_the_contract_and_no_error_is_told_before_one(tuned: Tuned) -> None:
    """Cases 1, 16, 17."""
    order = ["validating_files", "queued", "running", "succeeded"]
    assert tuned.states == [state for state in order if state in tuned.states]
    assert tuned.states[-1] == "succeeded", tuned.job.error
    assert tuned.errors_on_the_way == [None] * len(tuned.errors_on_the_way)
    assert tuned.model.startswith("ft:tiny-chat:personal:my-x:")
    assert len(tuned.model.rsplit(":", 1)[1]) == 8
    assert tuned.job.seed == 7 and tuned.job.finished_at is not None
    assert tuned.job.trained_tokens and tuned.job.metadata == {"owner": "太郎"}


def test_events_are_told_once_each_in_pages_and_in_openais_words(
    client: openai.OpenAI, tuned: Tuned
) -> None:
    """Cases 18, 19."""
    paged = list(client.fine_tuning.jobs.list_events(tuned.job.id, limit=10))
    assert len({event.id for event in paged}) == len(paged) > 25
    told = [event.message for event in reversed(paged)]
    assert told[0] == f"Created fine-tuning job: {tuned.job.id}"
    assert told[1].startswith(f"Validating training file: {tuned.job.training_file}")
    assert told[2:4] == ["Files validated, moving job to queued state", "Fine-tuning job started"]
    assert told[-2:] == [
        f"New fine-tuned model created: {tuned.model}",
        "The job has successfully completed",
    ]
    steps = [event for event in reversed(paged) if event.type == "metrics"]
    assert [event.data["step"] for event in steps] == list(range(1, 16))  # type: ignore[index]
    last = client.fine_tuning.jobs.list_events(tuned.job.id, after=paged[-1].id)
    assert last.data == [] and last.has_more is False


def test_the_result_file_tells_the_same_numbers(client: openai.OpenAI, tuned: Tuned) -> None:
    """Case 19."""
    rows = client.files.content(tuned.job.result_files[0]).read().decode("utf-8").splitlines()
    assert rows[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    events = client.fine_tuning.jobs.list_events(tuned.job.id, limit=100).data
    steps = sorted(
        (event.data for event in events if event.type == "metrics"),
        key=lambda data: data["step"],  # type: ignore[index]
    )
    assert len(rows) == 1 + len(steps) == 16
    for row, data in zip(rows[1:], steps, strict=True):
        cells = row.split(",")
        assert int(cells[0]) == data["step"]  # type: ignore[index]
        assert float(cells[1]) == pytest.approx(data["train_loss"], abs=1e-4)  # type: ignore[index]
    assert any(row.split(",")[3] for row in rows[1:]), "a validation file was given"


def test_the_last_three_checkpoints_answer(client: openai.OpenAI, tuned: Tuned) -> None:
    """Case 20."""
    found = client.fine_tuning.jobs.checkpoints.list(tuned.job.id).data
    assert [checkpoint.step_number for checkpoint in found] == [15, 12, 9]
    assert found[0].fine_tuned_model_checkpoint == tuned.model
    assert found[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-12")
    for checkpoint in found:
        assert checkpoint.metrics.train_loss is not None
        name = checkpoint.fine_tuned_model_checkpoint
        answer = client.chat.completions.create(model=name, messages=USER, max_tokens=3)
        assert answer.model == name


def test_metadata_finds_jobs(client: openai.OpenAI, tuned: Tuned) -> None:
    """Case 24."""
    jobs = client.fine_tuning.jobs
    assert [job.id for job in jobs.list(metadata={"owner": "太郎"})] == [tuned.job.id]
    assert jobs.list(metadata={"owner": "花子"}).data == []
    assert tuned.job.id not in [job.id for job in jobs.list(extra_query={"metadata": "null"})]


def test_cancelling_is_told_at_once_and_auto_becomes_numbers(
    client: openai.OpenAI, tuned: Tuned
) -> None:
    """Cases 13, 22."""
    created = client.fine_tuning.jobs.create(
        model="gpt-3.5-turbo", training_file=upload(client, *TRAIN[:10])
    )
    assert created.hyperparameters.n_epochs == "auto"
    wait_for(lambda: client.fine_tuning.jobs.retrieve(created.id), until=("running", *ENDED))
    running = client.fine_tuning.jobs.retrieve(created.id)
    assert running.status == "running"
    assert (running.hyperparameters.n_epochs, running.hyperparameters.batch_size) == (10, 1)
    assert isinstance(running.hyperparameters.learning_rate_multiplier, int | float)
    assert client.fine_tuning.jobs.cancel(created.id).status == "cancelled"
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError) as again:
        client.fine_tuning.jobs.cancel(created.id)
    assert time.monotonic() - began < 0.3 * (1 + _business()), "it was not to be tried three times"
    assert again.value.code == "invalid_job_state"
    assert client.fine_tuning.jobs.retrieve(created.id).error is None


def _business() -> float:
    """How many processes wait for this machine's cores, per core."""
    import os

    return os.getloadavg()[0] / (os.cpu_count() or 1)


# --- what is refused ------------------------------------------------------------------------------


def test_what_no_job_can_be_made_of(client: openai.OpenAI) -> None:
    """Cases 8, 9, 14, 15, 23."""
    file = upload(client, *TRAIN[:10])
    good: dict[str, Any] = {"model": "tiny-chat", "training_file": file}
    for wrong, param in (
        ({"model": "nope"}, "model"),
        ({"training_file": "file-nope"}, "training_file"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {}}}}, "method"),
        *(({"hyperparameters": {"n_epochs": value}}, "hyperparameters.n_epochs")
          for value in (0, 51, "x")),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"extra_body": {"method": {"tanren": {"rnak": 3}}}}, "tanren"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.create(**{**good, **wrong})  # type: ignore[arg-type]
        assert refused.value.param == param, refused.value.message
    nulls = {
        "suffix": None,
        "seed": None,
        "validation_file": None,
        "integrations": None,
        "metadata": None,
    }
    made = client.fine_tuning.jobs.create(**good, extra_body=nulls)
    assert client.fine_tuning.jobs.cancel(made.id).status == "cancelled"


def test_files_that_cannot_be_trained_on(client: openai.OpenAI) -> None:
    """Cases 10, 11, 12."""
    weight_two = TRAIN[0].replace(b'"role": "assistant"', b'"role": "assistant", "weight": 2')
    assert weight_two != TRAIN[0]
    files = {
        "invalid_n_examples": TRAIN[:9],
        "line 4": [*TRAIN[:3], b"{broken\n", *TRAIN[4:12]],
        "weight": [weight_two, *TRAIN[1:10]],
    }
    jobs = {
        words: client.fine_tuning.jobs.create(
            model="tiny-chat", training_file=upload(client, *lines)
        ).id
        for words, lines in files.items()
    }
    for words, identity in jobs.items():
        states = wait_for(lambda id=identity: client.fine_tuning.jobs.retrieve(id))
        job = client.fine_tuning.jobs.retrieve(identity)
        assert states[-1] == "failed" and job.error is not None
        assert job.error.param == "training_file" and job.fine_tuned_model is None
        assert words in (job.error.code or "") + (job.error.message or "")
    nine = client.fine_tuning.jobs.retrieve(jobs["invalid_n_examples"])
    assert nine.error is not None and nine.error.message == (
        "Training file has 9 example(s), but must have at least 10 examples"
    )
    assert nine.hyperparameters.n_epochs == "auto"


def test_the_same_key_makes_one_job(client: openai.OpenAI) -> None:
    file = upload(client, *TRAIN[:9])
    headers = {"Idempotency-Key": "monday"}
    body: dict[str, Any] = {"model": "tiny-chat", "training_file": file, "extra_headers": headers}
    first, second = (client.fine_tuning.jobs.create(**body) for _ in range(2))
    assert first.id == second.id
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.create(**body, seed=9)


# --- chat -----------------------------------------------------------------------------------------


def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI, tuned: Tuned) -> None:
    """Case 26."""
    asked: dict[str, Any] = {
        "model": tuned.model,
        "messages": USER,
        "temperature": 0,
        "max_tokens": 40,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content != ""
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert whole.system_fingerprint


def test_choices_log_probabilities_and_stops(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny-chat", "messages": USER, "max_tokens": 6}
    several = client.chat.completions.create(**asked, n=3, seed=5, temperature=1)
    again = client.chat.completions.create(**asked, n=3, seed=5, temperature=1)
    texts = [choice.message.content for choice in several.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1, "each choice has draws of its own"
    told = client.chat.completions.create(**asked, temperature=0, logprobs=True, top_logprobs=2)
    assert told.choices[0].logprobs is not None and told.choices[0].logprobs.content is not None
    tokens = told.choices[0].logprobs.content
    assert told.usage is not None and len(tokens) == told.usage.completion_tokens
    spelt = b"".join(bytes(token.bytes or ()) for token in tokens).decode("utf-8", "replace")
    content = told.choices[0].message.content or ""
    assert content and spelt.startswith(content.rstrip("\ufffd"))
    assert all(token.top_logprobs[0].logprob == token.logprob for token in tokens), "greedy"
    stopped = client.chat.completions.create(**asked, temperature=0, stop=content[1:2])
    assert stopped.choices[0].message.content == content[:1]
    assert stopped.choices[0].finish_reason == "stop"
    assert told.choices[0].finish_reason in ("length", "stop")


class Umbrella(BaseModel):
    owner: Literal["太郎", "花子"]
    colours: list[Literal["赤", "青"]] = Field(max_length=3)
    lent: bool


def test_an_answer_parses_into_a_model(client: openai.OpenAI) -> None:
    """Case 27."""
    answer = client.chat.completions.parse(
        model="tiny-chat", messages=USER, response_format=Umbrella, temperature=0, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Umbrella)


def test_an_unknown_model_is_not_found_streaming_too(client: openai.OpenAI) -> None:
    """Case 25."""
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(model="ft:nobody", messages=USER, stream=stream)
        assert refused.value.code == "model_not_found"
        assert refused.value.message.count("ft:nobody") == 1


def test_too_long_a_conversation_is_told_with_its_numbers(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "傘" * 20_000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny-chat", messages=messages)
    assert refused.value.code == "context_length_exceeded" and refused.value.param == "messages"


def test_a_deleted_model_answers_no_more_and_bases_stay(
    client: openai.OpenAI, tuned: Tuned
) -> None:
    """Case 28, with a checkpoint; names with colons in the path."""
    name = (
        client.fine_tuning.jobs.checkpoints.list(tuned.job.id).data[2].fine_tuned_model_checkpoint
    )
    assert client.models.retrieve(name).id == name
    assert client.models.delete(name).deleted is True
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model=name, messages=USER)
    for base in ("tiny-chat", "gpt-4o-mini"):
        with pytest.raises(openai.PermissionDeniedError):
            client.models.delete(base)
    names = [model.id for model in client.models.list()]
    assert {"tiny-chat", "gpt-4o-mini", tuned.model} <= set(names) and name not in names


# --- other clients --------------------------------------------------------------------------------


def check_flow(seen: dict[str, Any], tuned: Tuned, events: list[str]) -> None:
    """Cases 3 to 6, 8, 18, 22, 25, 26 as this client sees them."""
    assert seen["same_bytes"] is True and seen["listed"] is True and seen["deleted"] is True
    assert seen["wrong_purpose"] == "purpose"
    assert "No such File object" in seen["deleted_twice"]
    assert seen["job"] == ["succeeded", tuned.model, True, tuned.job.trained_tokens]
    assert seen["jobs"] == 1
    assert seen["events"] == events, "each event once, and an end of it"
    assert seen["unknown_model"] == "model_not_available"
    assert seen["cancel_after_end"] == "invalid_job_state"
    assert seen["answer"] == seen["streamed"] != ""
    assert seen["usage"] is True and seen["models"] is True and seen["model"] == tuned.model
    assert seen["unknown_chat_model"] == "model_not_found"


def _flow(made: Client, script: str, server: Server, tuned: Tuned) -> dict[str, Any]:
    out = made.run(FLOWS / script, str(tuned.train), tuned.job.id, tuned.model, url=server.url)
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    return seen


@pytest.mark.parametrize("version", PYTHON)
def test_older_python_clients(
    version: str, server: Server, client: openai.OpenAI, tuned: Tuned
) -> None:
    made = python_client(version)
    legacy = version.startswith("0.")
    seen = _flow(made, "legacy.py" if legacy else "modern.py", server, tuned)
    assert seen["version"] == version
    check_flow(seen, tuned, [e.id for e in client.fine_tuning.jobs.list_events(tuned.job.id)])
    if legacy:
        assert seen["delete_job"] == 405 and seen["named"] == "日本.jsonl"
        assert seen["unnamed"] == "file" and seen["pages"] is True


def test_nodes_client(server: Server, client: openai.OpenAI, tuned: Tuned) -> None:
    seen = _flow(node_client(), "node.cjs", server, tuned)
    assert seen["version"] == NODE
    assert seen["bare"] is True, "it writes null as nothing"
    check_flow(seen, tuned, [e.id for e in client.fine_tuning.jobs.list_events(tuned.job.id)])


def test_nothing_went_wrong_in_the_server(server: Server, tuned: Tuned) -> None:
    """Runs last: its log has every request and no bug, no key and no text of a user."""
    log = server.log()
    assert "a bug in tanren" not in log and "Traceback" not in log
    assert "太郎" not in log and "path=/v1/chat/completions status=200" in log

"""Chat completions over HTTP, with an engine that says what it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from api.conftest import client_of
from api.scripted import ScriptedEngine, saying
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from starlette.testclient import TestClient

from tanren.api.limits import Patience
from tanren.engine.wire import (
    Accepted,
    ChatRequest,
    Constraint,
    Failed,
    Finished,
    Piece,
    Reply,
    TokenLogprob,
    ToolCall,
)
from tanren.jobs.service import JobService

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "傘を貸してくれる?"}]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
TOOLS = [{"type": "function", "function": WEATHER}]
CALLS = saying(
    [Accepted("", 9, "fp_1")],
    [
        ToolCall("", 0, 0, "weather", '{"city": "大阪"}'),
        ToolCall("", 0, 1, "weather", '{"city": "京都"}'),
    ],
    [Finished("", 0, "tool_calls", 12)],
)


def ask(client: TestClient, **body: Any) -> Any:
    return client.post(PATH, json={"model": "tiny", "messages": USER, **body})


def chunks(answer: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, each checked by the official client's own model."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    lines = [line for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    documents = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    for document in documents:
        ChatCompletionChunk.model_validate(document)
    return documents


def test_a_whole_answer(client: TestClient) -> None:
    answer = ask(client, n=2)
    document = answer.json()
    completion = ChatCompletion.model_validate(document)
    assert [choice.message.content for choice in completion.choices] == [USER[0]["content"]] * 2
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "stop"]
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 7 and completion.usage.completion_tokens == 18
    assert completion.usage.total_tokens == 25
    assert completion.system_fingerprint == "fp_scripted" and completion.model == "tiny"
    assert document["choices"][0]["logprobs"] is None
    assert document["choices"][0]["message"]["refusal"] is None
    assert "tool_calls" not in document["choices"][0]["message"]


def test_a_stream_says_the_same(client: TestClient) -> None:
    told = chunks(ask(client, stream=True, n=2))
    for index in (0, 1):
        mine = [c["choices"][0] for c in told if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        text = "".join(choice["delta"].get("content") or "" for choice in mine)
        assert text == USER[0]["content"]
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["stop"]
        assert mine[-1]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in told}) == 1
    assert not any("usage" in chunk for chunk in told), "usage only where it was asked for"


def test_usage_comes_last_and_only_if_wanted(client: TestClient) -> None:
    told = chunks(ask(client, stream=True, stream_options={"include_usage": True}))
    assert told[-1]["choices"] == [] and told[-1]["usage"]["total_tokens"] == 16
    assert all(chunk["usage"] is None for chunk in told[:-1])


def test_an_alias_answers_as_the_base_that_it_means(
    client: TestClient, engine: ScriptedEngine
) -> None:
    assert ask(client, model="gpt-4o-mini").json()["model"] == "tiny"
    assert (
        engine.asked[0].target.base.endswith("tiny-chat") and engine.asked[0].target.folder is None
    )


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_404(client: TestClient, stream: bool) -> None:
    answer = ask(client, model="ft:x::y", stream=stream)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["message"] == "The model `ft:x::y` does not exist or you do not have access to it."
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "status", "retried"), [("request", 400, False), ("model", 404, False),
                                    ("busy", 429, True), ("engine", 500, False)],
)  # fmt: skip
def test_a_refusal_of_the_engine_has_its_status(
    client: TestClient, engine: ScriptedEngine, kind: Any, status: int, retried: bool, stream: bool
) -> None:
    engine.script = saying([Failed("", kind, "why", param="messages", code="c")])
    answer = ask(client, stream=stream)
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "why"
    assert ("retry-after" in answer.headers) == retried
    assert (answer.headers.get("x-should-retry") == "false") != retried


def test_an_error_in_the_middle_of_a_stream_is_a_plain_data_line(
    client: TestClient, engine: ScriptedEngine
) -> None:
    engine.script = saying(
        [Accepted("", 3, "fp")], [Piece("", 0, "太")], [Failed("", "engine", "it died")]
    )
    text = ask(client, stream=True).text
    assert "event:" not in text and "[DONE]" not in text
    last = json.loads(text.rstrip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["message"] == "it died" and last["error"]["type"] == "server_error"


def test_a_slow_model_is_bridged_by_comments(service: JobService, engine: ScriptedEngine) -> None:
    async def slow(request: ChatRequest) -> AsyncIterator[list[Reply]]:
        await asyncio.sleep(0.4)
        yield [Accepted("", 3, "fp"), Piece("", 0, "はい"), Finished("", 0, "stop", 1)]

    engine.script = slow
    patience = Patience(first_word=0.02, keep_alive=0.05)
    with client_of(service, engine, patience=patience) as client:
        answer = ask(client, stream=True)
    assert answer.text.startswith(": keep-alive\n\n: keep-alive\n\n")
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks(answer)) == "はい"


def test_an_answer_that_begins_at_once_has_no_comments(client: TestClient) -> None:
    assert "keep-alive" not in ask(client, stream=True).text


def test_logprobs_have_the_bytes_of_each_token(client: TestClient, engine: ScriptedEngine) -> None:
    other = ("こ", -2.5, tuple("こ".encode()))
    never = ("x", float("-inf"), (120,))
    token = TokenLogprob("太", -0.5, tuple("太".encode()), (other, never))
    engine.script = saying(
        [Accepted("", 3, "fp")], [Piece("", 0, "太", (token,))], [Finished("", 0, "stop", 1)]
    )
    whole = ask(client, logprobs=True, top_logprobs=2).json()
    ChatCompletion.model_validate(whole)
    said = whole["choices"][0]["logprobs"]["content"]
    assert said[0]["bytes"] == list("太".encode()) and said[0]["logprob"] == -0.5
    assert said[0]["top_logprobs"][1] == {"token": "x", "logprob": -9999.0, "bytes": [120]}
    assert engine.asked[0].logprobs == 2
    streamed = chunks(ask(client, logprobs=True, top_logprobs=2, stream=True))
    told = [c["choices"][0]["logprobs"] for c in streamed if c["choices"][0]["logprobs"]]
    assert told == [{"content": said, "refusal": None}]


def test_calls_of_tools(client: TestClient, engine: ScriptedEngine) -> None:
    engine.script = CALLS
    choice = ChatCompletion.model_validate(ask(client, tools=TOOLS).json()).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["大阪", "京都"]  # type: ignore[union-attr]
    assert len({call.id for call in calls}) == 2


def test_calls_in_a_stream_add_up_to_the_same(client: TestClient, engine: ScriptedEngine) -> None:
    engine.script = CALLS
    told = chunks(ask(client, tools=TOOLS, stream=True))
    calls: dict[int, dict[str, str]] = {}
    for chunk in told:
        for delta in chunk["choices"][0]["delta"].get("tool_calls", ()):
            call = calls.setdefault(delta["index"], {"arguments": ""})
            call["arguments"] += delta["function"].get("arguments", "")
            if "id" in delta:
                call.update(id=delta["id"], name=delta["function"]["name"])
    assert [call["arguments"] for call in calls.values()] == [
        '{"city": "大阪"}',
        '{"city": "京都"}',
    ]
    assert all(call["name"] == "weather" and call["id"] for call in calls.values())
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_one_call_where_only_one_is_wanted(client: TestClient, engine: ScriptedEngine) -> None:
    engine.script = CALLS
    body = {"tools": TOOLS, "parallel_tool_calls": False}
    assert len(ask(client, **body).json()["choices"][0]["message"]["tool_calls"]) == 1
    streamed = chunks(ask(client, stream=True, **body))
    places = [d["index"] for c in streamed for d in c["choices"][0]["delta"].get("tool_calls", ())]
    assert set(places) == {0}


def test_functions_as_they_were_in_2023(client: TestClient, engine: ScriptedEngine) -> None:
    engine.script = CALLS
    body = {"functions": [WEATHER], "function_call": {"name": "weather"}}
    choice = ask(client, **body).json()["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {
        "name": "weather",
        "arguments": '{"city": "大阪"}',
    }
    assert engine.asked[0].constraint == Constraint("tools", tools=("weather",), parallel=False)
    assert engine.asked[0].tools == ({"type": "function", "function": WEATHER},)
    told = chunks(ask(client, stream=True, **body))
    parts = [c["choices"][0]["delta"].get("function_call", {}) for c in told]
    assert "".join(part.get("arguments", "") for part in parts) == '{"city": "大阪"}'


def test_old_clients_name_the_model_in_the_path(client: TestClient) -> None:
    answer = client.post("/v1/engines/org%2Falias/chat/completions", json={"messages": USER})
    assert answer.json()["model"] == "tiny"


def test_ignored_parameters_are_counted(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="tanren.service"):
        assert ask(client, verbosity="low", top_k=3).status_code == 200
    assert caplog.records[-1].facts["ignored_parameters"] == 2  # type: ignore[attr-defined]


def test_a_service_that_only_trains_says_so(service: JobService) -> None:
    with client_of(service, None) as client:
        answer = ask(client)
    assert answer.status_code == 404 and "trains only" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_no_longer_answered(
    service: JobService, engine: ScriptedEngine, stream: bool
) -> None:
    """As a socket would have it: the client is gone in the middle of an endless answer."""

    async def endless(request: ChatRequest) -> AsyncIterator[list[Reply]]:
        yield [Accepted("", 3, "fp")]
        while True:
            await asyncio.sleep(0.01)
            yield [Piece("", 0, "あ")]

    engine.script = endless
    body = json.dumps({"model": "tiny", "messages": USER, "stream": stream}).encode()
    began = time.monotonic()
    asyncio.run(_leave_in_the_middle(client_of(service, engine).app, body))
    assert len(engine.asked) == 1
    assert engine.left == [engine.asked[0].id]
    assert time.monotonic() - began < 5
    assert threading.active_count() < 60


async def _leave_in_the_middle(app: Any, body: bytes) -> None:
    gone = asyncio.Event()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is not None:
            return message
        await asyncio.sleep(0.2)
        gone.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
        "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "root_path": "", "scheme": "http", "headers": [(b"host", b"127.0.0.1:8000")],
        "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 4)
    assert gone.is_set()

"""Laws of asking: bounded, patient, nothing twice, the key nowhere."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from endpoint.chat_server import Answer, ChatServer, completion, echo

from tanren.endpoint import (
    EndpointConfig,
    Failure,
    Outcome,
    Reply,
    ReplyCache,
    ask_all,
)
from tanren.endpoint.client import opened
from tanren.errors import ConfigError

Config = Callable[..., EndpointConfig]
KEY = "sk-" + "Zq3v" * 8


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def asked(
    config: EndpointConfig, texts: list[str], **options: Any
) -> tuple[Outcome, dict[int, Reply | Failure]]:
    replies: dict[int, Reply | Failure] = {}
    outcome = ask_all(config, [said(text) for text in texts], replies.__setitem__, **options)
    return outcome, replies


def test_every_conversation_gets_its_own_reply(chat: ChatServer, config: Config) -> None:
    texts = [f"question {k} 質問🙂" for k in range(30)]
    outcome, replies = asked(config(concurrency=5), texts)
    assert outcome == Outcome(asked=30, failed=0, not_asked=0, cached=0)
    assert {k: r.text for k, r in replies.items() if isinstance(r, Reply)} == {
        k: f"echo: {text}" for k, text in enumerate(texts)
    }
    first = replies[0]
    assert isinstance(first, Reply)
    assert (first.prompt_tokens, first.answer_tokens, first.finish_reason) == (10, 5, "stop")
    assert chat.paths == ["/v1/chat/completions"] * 30


def test_the_body_is_what_the_settings_say(chat: ChatServer, config: Config) -> None:
    settings = config(
        temperature=None,
        token_limit_field="max_completion_tokens",
        seed=7,
        extra={"reasoning_effort": "low"},
    )
    asked(settings, ["hello"])
    assert chat.bodies == [
        {
            "model": "judge-1",
            "messages": said("hello"),
            "max_completion_tokens": 20,
            "seed": 7,
            "reasoning_effort": "low",
        }
    ]


def test_half_of_an_emoji_breaks_nothing(chat: ChatServer, config: Config, tmp_path: Path) -> None:
    """JSON can say it, UTF-8 cannot."""
    _, replies = asked(config(), ["半分 \ud83d"], cache=ReplyCache(tmp_path))
    assert chat.asked == ["半分 \ud83d"]
    reply = replies[0]
    assert isinstance(reply, Reply)
    assert reply.text == "echo: 半分 \ufffd"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_never_more_than_concurrency_at_once_and_no_less(
    chat: ChatServer, config: Config, concurrency: int
) -> None:
    chat.behave = lambda body: Answer(body=completion("ok"), delay=0.03)
    asked(config(concurrency=concurrency), [str(k) for k in range(12)])
    assert chat.most_at_once == concurrency


def test_many_askers_of_one_client_share_its_concurrency(chat: ChatServer, config: Config) -> None:
    chat.behave = lambda body: Answer(body=completion("ok"), delay=0.02)

    async def ask() -> None:
        async with opened(config(concurrency=2)) as client:
            await asyncio.gather(*(client.ask(said(str(k))) for k in range(10)))

    asyncio.run(ask())
    assert len(chat.asked) == 10
    assert chat.most_at_once == 2


# --- patience -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(status=429, body={"error": {"message": "slow down", "code": "rate_limit"}}),
        Answer(status=503, body=b"<html>overloaded</html>"),
        Answer(status=500, body={}),
        Answer(dropped=True),
        Answer(body=b"<html>a proxy's page</html>"),
        Answer(body={"choices": []}),
        Answer(body=completion("late"), delay=0.6),
    ],
    ids=["429", "503", "500", "dropped", "page", "no choice", "timeout"],
)
def test_what_passes_is_asked_again(chat: ChatServer, config: Config, trouble: Answer) -> None:
    chat.first(trouble, trouble)
    outcome, replies = asked(config(timeout_seconds=0.3), ["hello"])
    reply = replies[0]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.attempts) == ("echo: hello", 3)
    assert outcome.failed == 0
    assert chat.asked == ["hello"] * 3


def test_patience_ends_and_the_other_rows_go_on(chat: ChatServer, config: Config) -> None:
    def behave(body: Mapping[str, Any]) -> Answer:
        return Answer(status=500, body={}) if "bad" in str(body) else echo(body)

    chat.behave = behave
    outcome, replies = asked(config(retries=2), ["good", "bad", "fine"])
    assert outcome == Outcome(asked=3, failed=1, not_asked=0, cached=0)
    failure = replies[1]
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.attempts) == ("lost", 3)
    assert "500" in failure.words
    assert chat.asked.count("bad") == 3


def test_a_refused_row_is_not_asked_again(chat: ChatServer, config: Config) -> None:
    words = "context length is 8 tokens"
    chat.behave = lambda body: Answer(status=400, body={"error": {"message": words}})
    _, replies = asked(config(), ["long"])
    assert replies[0] == Failure("refused", f"HTTP 400: {words}", 1)
    assert len(chat.asked) == 1


def test_a_filtered_answer_is_a_failure_not_an_answer(chat: ChatServer, config: Config) -> None:
    body = completion("", finish_reason="content_filter")
    chat.behave = lambda _: Answer(body=body)
    _, replies = asked(config(), ["x"])
    failure = replies[0]
    assert isinstance(failure, Failure)
    assert failure.kind == "withheld"


def test_retry_after_holds_every_request_back(chat: ChatServer, config: Config) -> None:
    chat.first(Answer(status=429, body={}, headers={"Retry-After": "0.4"}))
    asked(config(concurrency=1), ["a", "b", "c"])
    assert chat.asked == ["a", "a", "b", "c"]
    assert chat.times[1] - chat.times[0] >= 0.39


def test_others_wait_too_while_one_was_told_to(chat: ChatServer, config: Config) -> None:
    def behave(body: Mapping[str, Any]) -> Answer:
        first = len(chat.asked) == 1
        asked_for = Answer(status=429, body={}, headers={"retry-after-ms": "400"})
        return asked_for if first else Answer(body=completion("ok"), delay=0.05)

    chat.behave = behave

    async def ask() -> None:
        async with opened(config(concurrency=4)) as client:
            first = asyncio.create_task(client.ask(said("first")))
            await asyncio.sleep(0.15)
            await asyncio.gather(first, *(client.ask(said(str(k))) for k in range(3)))

    asyncio.run(ask())
    assert min(chat.times[1:]) - chat.times[0] >= 0.39


def test_a_wait_beyond_the_longest_ends_the_row(chat: ChatServer, config: Config) -> None:
    chat.behave = lambda _: Answer(status=429, body={}, headers={"Retry-After": "3600"})
    began = time.monotonic()
    _, replies = asked(config(longest_wait_seconds=1), ["x"])
    assert isinstance(replies[0], Failure)
    assert replies[0].kind == "overloaded"
    assert time.monotonic() - began < 5


def test_a_trickle_of_bytes_does_not_outlast_the_timeout(config: Config) -> None:
    """A read timeout would start anew with every byte."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def trickle() -> None:
        connection, _ = listener.accept()
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(200):
                connection.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            pass
        finally:
            connection.close()

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    began = time.monotonic()
    _, replies = asked(config(base_url=url, timeout_seconds=0.4, retries=0), ["x"])
    assert isinstance(replies[0], Failure)
    assert time.monotonic() - began < 3
    thread.join()
    listener.close()


def test_nobody_listening_is_said_plainly(config: Config) -> None:
    _, replies = asked(config(base_url="http://127.0.0.1:9/v1", retries=1), ["x"])
    failure = replies[0]
    assert isinstance(failure, Failure)
    assert failure.words.startswith("no connection to 127.0.0.1")


@pytest.mark.parametrize("answered_before", [0, 5])
def test_an_endpoint_that_is_down_does_not_cost_all_retries_of_every_row(
    chat: ChatServer, config: Config, answered_before: int
) -> None:
    chat.behave = lambda body: (
        echo(body) if len(chat.asked) <= answered_before else Answer(status=503, body={})
    )
    outcome, _ = asked(config(concurrency=1, retries=2), [str(k) for k in range(40)])
    assert len(chat.asked) == answered_before + 3 * 3
    assert (outcome.asked, outcome.failed) == (answered_before + 3, 3)
    assert outcome.not_asked == 37 - answered_before
    assert outcome.stopped is not None
    assert "does not answer" in outcome.stopped and "503" in outcome.stopped


def test_single_rows_that_break_the_endpoint_do_not_end_the_work(
    chat: ChatServer, config: Config
) -> None:
    chat.behave = lambda body: (
        Answer(status=500, body={}) if int(chat.asked[-1]) % 2 else echo(body)
    )
    outcome, _ = asked(config(concurrency=1, retries=0), [str(k) for k in range(12)])
    assert outcome == Outcome(asked=12, failed=6, not_asked=0, cached=0)


def test_a_setting_that_the_endpoint_refuses_is_found_out_early(
    chat: ChatServer, config: Config
) -> None:
    words = "temperature is not supported"
    chat.behave = lambda _: Answer(status=400, body={"error": {"message": words}})
    with pytest.raises(ConfigError, match=words):
        asked(config(concurrency=1), [str(k) for k in range(40)])
    assert len(chat.asked) == 10


# --- what would fail every request ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (Answer(status=401, body={"error": {"message": "bad key"}}), "api_key_env"),
        (Answer(status=404, body={"error": {"message": "no such model"}}), "judge-1"),
        (Answer(status=307, body={}, headers={"Location": "http://127.0.0.1:9/"}), "redirect"),
        (
            Answer(status=429, body={"error": {"message": "", "code": "insufficient_quota"}}),
            "credit",
        ),
    ],
    ids=["key", "model", "redirect", "credit"],
)
def test_what_fails_every_request_ends_the_work_at_once(
    chat: ChatServer, config: Config, answer: Answer, names: str
) -> None:
    chat.behave = lambda _: answer
    with pytest.raises(ConfigError, match=names):
        asked(config(concurrency=2), [str(k) for k in range(50)])
    assert len(chat.asked) <= 2


def test_the_key_is_sent_and_in_no_word_we_write(
    chat: ChatServer,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    chat.first(Answer(status=400, body={"error": {"message": f"Bearer {KEY} is not enough"}}))
    settings = config(api_key_env="JUDGE_KEY", concurrency=1)
    _, replies = asked(settings, ["a", "b"], cache=ReplyCache(tmp_path))
    assert chat.headers[0]["Authorization"] == f"Bearer {KEY}"
    chat.behave = lambda _: Answer(status=401, body={"error": f"wrong key {KEY}"})
    with pytest.raises(ConfigError) as refused:
        asked(settings, ["c"])
    files = "".join(p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.json"))
    assert "echo: b" in files
    shown = [
        str(replies),
        str(refused.value),
        repr(settings),
        files,
        caplog.text,
        *capfd.readouterr(),
    ]
    assert not [text for text in shown if KEY in text]
    assert "***" in str(replies[0])


# --- nothing twice --------------------------------------------------------------------------------


def test_a_kept_reply_is_not_asked_for_again(
    chat: ChatServer, config: Config, tmp_path: Path
) -> None:
    cache = ReplyCache(tmp_path)
    _, first = asked(config(), ["a", "b"], cache=cache)
    outcome, second = asked(config(), ["a", "b", "c"], cache=cache)
    assert sorted(chat.asked) == ["a", "b", "c"]
    assert outcome == Outcome(asked=3, failed=0, not_asked=0, cached=2)
    kept, fresh = second[0], first[0]
    assert isinstance(kept, Reply) and isinstance(fresh, Reply)
    assert (kept.text, kept.seconds, kept.cached) == (fresh.text, fresh.seconds, True)


def test_a_failure_is_not_kept(chat: ChatServer, config: Config, tmp_path: Path) -> None:
    chat.first(Answer(status=400, body={}))
    asked(config(), ["a"], cache=ReplyCache(tmp_path))
    _, replies = asked(config(), ["a"], cache=ReplyCache(tmp_path))
    assert isinstance(replies[0], Reply)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "judge-2"},
        {"temperature": 0.5},
        {"max_tokens": 21},
        {"seed": 1},
        {"top_p": 0.5},
        {"extra": {"reasoning_effort": "low"}},
    ],
)
def test_whatever_changes_the_answer_is_part_of_the_key(
    chat: ChatServer, config: Config, tmp_path: Path, change: dict[str, Any]
) -> None:
    cache = ReplyCache(tmp_path)
    asked(config(), ["a"], cache=cache)
    asked(config(**change), ["a"], cache=cache)
    assert len(chat.asked) == 2


def test_what_changes_no_answer_is_not(chat: ChatServer, config: Config, tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    asked(config(), ["a"], cache=cache)
    asked(config(concurrency=1, retries=0, timeout_seconds=9), ["a"], cache=cache)
    assert len(chat.asked) == 1


def test_a_damaged_kept_reply_is_asked_for_again(
    chat: ChatServer, config: Config, tmp_path: Path
) -> None:
    cache = ReplyCache(tmp_path)
    asked(config(), ["a"], cache=cache)
    for file in tmp_path.rglob("*.json"):
        file.write_text('{"text": "ec', encoding="utf-8")
    _, replies = asked(config(), ["a"], cache=cache)
    assert isinstance(replies[0], Reply)
    assert replies[0].text == "echo: a"


def test_equal_rows_are_asked_once(chat: ChatServer, config: Config, tmp_path: Path) -> None:
    chat.behave = lambda body: Answer(body=completion("same"), delay=0.05)
    _, replies = asked(config(concurrency=4), ["a"] * 6, cache=ReplyCache(tmp_path))
    assert len(chat.asked) == 1
    assert len(replies) == 6


# --- being stopped --------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from tanren.endpoint import Journal, Ledger, ReplyCache, ask_all, load_endpoint

url, folder = sys.argv[1], Path(sys.argv[2])
config = load_endpoint(None, {"base_url": url, "model": "judge-1", "concurrency": 2})
said = [[{"role": "user", "content": str(k)}] for k in range(12)]
ledger = Ledger(journal=Journal(folder / "spending.jsonl"))
print("ready", flush=True)
try:
    ask_all(config, said, lambda k, r: print("got", k, flush=True),
            cache=ReplyCache(folder / "replies"), ledger=ledger)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
print("spent", ledger.spent.requests, ledger.uncertain)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_for_replies(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    while count:
        line = process.stdout.readline()
        assert line, "the program ended early"
        count -= line.startswith("got")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_stopped_and_started_again_asks_only_what_is_missing(
    chat: ChatServer, tmp_path: Path, number: signal.Signals
) -> None:
    chat.behave = lambda body: Answer(
        body=completion("ok"), delay=20.0 if len(chat.asked) in (7, 8) else 0.01
    )
    program = [sys.executable, "-c", PROGRAM, chat.url, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            wait_for_replies(process, 6)
            wait_for(lambda: len(chat.asked) == 8)
            began = time.monotonic()
            process.send_signal(number)
            rest, _ = process.communicate(timeout=30)
            assert time.monotonic() - began < 5, "what is under way is not waited for"
        finally:
            process.kill()
    assert (process.returncode, "interrupted" in rest) == (
        (130, True) if number == signal.SIGINT else (-signal.SIGKILL, False)
    )
    before = set(chat.asked)
    done = subprocess.run(program, capture_output=True, text=True, encoding="utf-8", check=True)
    assert set(chat.asked[8:]) == {str(k) for k in range(12)} - (before - set(chat.asked[6:8]))
    assert len(chat.asked) == 8 + 6, "each row asked once, but for the two that were cut off"
    assert "spent 14 2" in done.stdout, "the two may have been paid for and count"

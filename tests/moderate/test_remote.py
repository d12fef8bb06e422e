"""Laws of a moderation endpoint: asked in batches, nothing twice, never silent, never unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from endpoint.chat_server import Answer, ChatServer, running_chat
from moderate.moderation_server import moderate, verdict

from tanren.data.screen import Passage, Unjudged, Verdict
from tanren.endpoint.moderations import ModerationConfig, load_moderation
from tanren.errors import ConfigError
from tanren.moderate import named_moderator
from tanren.moderate.remote import EndpointModerator


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running_chat(moderate) as running:
        yield running


@pytest.fixture
def config(server: ChatServer) -> Callable[..., ModerationConfig]:
    def make(**changes: Any) -> ModerationConfig:
        values = {"base_url": server.url, "model": "omni", "first_wait_seconds": 0.01, "retries": 1}
        return load_moderation(None, {**values, **changes})

    return make


def passages(*texts: str) -> list[Passage]:
    return [Passage(text, "user") for text in texts]


def test_verdicts_come_in_order_whatever_shares_a_batch(
    server: ChatServer, config: Callable[..., ModerationConfig]
) -> None:
    texts = [f"{'bad' if i % 7 == 3 else 'good'} {i}" for i in range(50)]
    said = EndpointModerator(config(batch_size=8)).judge(passages(*texts, "good 0"))
    for text, one in zip([*texts, "good 0"], said, strict=True):
        assert isinstance(one, Verdict)
        assert one.flagged == (("violence",) if "bad" in text else ())
        assert one.scores == verdict(text)["category_scores"]
    assert set(server.paths) == {"/v1/moderations"}
    assert sum(len(body["input"]) for body in server.bodies) == 50
    assert max(len(body["input"]) for body in server.bodies) == 8
    assert all(set(body) == {"model", "input"} for body in server.bodies)


def test_what_was_judged_is_never_asked_again(
    server: ChatServer, config: Callable[..., ModerationConfig]
) -> None:
    texts = [f"text {i}" for i in range(20)]
    first = EndpointModerator(config(batch_size=4)).judge(passages(*texts))
    asked = len(server.bodies)
    assert EndpointModerator(config(batch_size=4)).judge(passages(*texts)) == first
    assert len(server.bodies) == asked == 5


def test_a_threshold_replaces_the_endpoints_own(config: Callable[..., ModerationConfig]) -> None:
    texts = passages("dull", "bad", "fine")
    own = EndpointModerator(config()).judge(texts)
    low = EndpointModerator(config(), threshold=0.3).judge(texts)
    high = EndpointModerator(config(), threshold=0.95).judge(texts)
    flags = [[bool(one.flagged) for one in said if isinstance(one, Verdict)] for said in (own, low)]
    assert flags == [[False, True, False], [True, True, False]]
    assert not any(one.flagged for one in high if isinstance(one, Verdict))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(500, {"error": {"message": "down"}}), "HTTP 500"),
        (Answer(body={"results": [{"categories": {}}]}), "without `flagged`"),
        (Answer(body={"results": []}), "0 results for 1 texts"),
        (Answer(body=b"<html>"), "no JSON"),
        (Answer(400, {"error": {"message": "too long"}}), "too long"),
    ],
)
def test_an_answer_that_is_none_is_no_verdict(
    answer: Answer, says: str, server: ChatServer, config: Callable[..., ModerationConfig]
) -> None:
    server.behave = lambda body: answer
    (said,) = EndpointModerator(config()).judge(passages("text"))
    assert isinstance(said, Unjudged) and says in said.words


def test_a_budget_ends_the_asking(
    server: ChatServer, config: Callable[..., ModerationConfig]
) -> None:
    moderator = EndpointModerator(config(batch_size=1, budget={"requests": 3}, concurrency=1))
    said = moderator.judge(passages(*"abcdef"))
    assert [isinstance(one, Verdict) for one in said] == [True] * 3 + [False] * 3
    assert len(server.bodies) == 3
    last = said[-1]
    assert isinstance(last, Unjudged) and "budget.requests" in last.words


def test_rows_leave_this_machine_only_for_a_host_that_was_named() -> None:
    with pytest.raises(ConfigError, match="remote_host"):
        load_moderation(None, {"base_url": "https://api.example.com/v1", "model": "omni"})
    named = named_moderator("https://api.example.com/v1#omni")
    assert isinstance(named, EndpointModerator)
    assert named.config.url == "https://api.example.com/v1/moderations"
    assert named.config.remote_host == "api.example.com"


@pytest.mark.parametrize(
    "word",
    ["https://api.example.com/v1", "nonsense", "words.txt", "http://127.0.0.1/v1/moderations#m"],
)
def test_words_that_name_no_moderator(word: str) -> None:
    with pytest.raises(ConfigError):
        named_moderator(word)

"""What an endpoint answered, or why it did not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Conversation = Sequence[Mapping[str, Any]]
"""Messages with `role` and `content`, as the endpoint takes them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`seconds` is the time of the request that was answered, without waits before it; of a kept
    reply it is the time that it took then. Token counts are the endpoint's own, None where it told
    none. `finish_reason` is in the endpoint's words.
    """

    text: str
    reasoning: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    attempts: int = 1
    cached: bool = False

    @property
    def cut(self) -> bool:
        """Whether the reply ended because its tokens were used up."""
        return self.finish_reason == "length"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


Kind = Literal["refused", "withheld", "garbled", "lost", "overloaded"]


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer. `words` are for people and hold no key.

    refused: the endpoint says the request is wrong. withheld: its filter kept the answer.
    garbled: what came is no chat completion. lost: no connection, or no answer in time.
    overloaded: it asked us to come later, too often.
    """

    kind: Kind
    words: str
    attempts: int = 1


class Garbled(ValueError):
    """A body that is no chat completion; its text says what is wrong with it."""


def read_completion(body: bytes, *, seconds: float, attempts: int) -> Reply:
    """A chat completion. Raises Garbled where it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Garbled("no JSON") from None
    choice = _first_choice(value)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Garbled("no choices[0].message")
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=_text(message.get("content") or message.get("refusal")),
        reasoning=_text(message.get("reasoning_content") or message.get("reasoning")),
        finish_reason=str(choice.get("finish_reason") or "stop"),
        model=str(value.get("model") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        answer_tokens=_count(usage.get("completion_tokens")),
        seconds=seconds,
        attempts=attempts,
    )


def error_words(body: bytes) -> tuple[str, str]:
    """An error's code and its words, as far as the endpoint tells them; cut to a line."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return "", " ".join(body[:200].decode("utf-8", errors="replace").split())
    inner = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(inner, dict):
        return "", " ".join(str(inner)[:300].split())
    words = inner.get("message") or inner.get("detail") or inner
    return str(inner.get("code") or inner.get("type") or ""), " ".join(str(words)[:300].split())


def _first_choice(value: Any) -> dict[str, Any]:
    choices = value.get("choices") if isinstance(value, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Garbled("no choices[0]")
    return choices[0]


def _text(content: Any) -> str:
    """Some servers answer in parts, as requests may be asked in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _whole(content)
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return _whole("".join(text for text in texts if isinstance(text, str)))
    raise Garbled("a content that is no text")


def _whole(text: str) -> str:
    """Half of an emoji (JSON can say it, UTF-8 cannot) becomes U+FFFD, so that every file takes
    it.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

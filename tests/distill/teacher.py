"""A teacher on loopback that behaves as real models do: it misses a length at first and mends it by
the numbers that it is told, not always at once; it is overloaded, slow, and cuts connections.

What it answers depends on the conversation alone, so that two runs can be compared byte by byte;
the troubles come by the count of requests. By hand, on a port of your choice:

    PYTHONPATH=tests python -m distill.teacher 8123
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from endpoint.chat_server import Answer, ChatServer, completion, running_chat

TARGET = 100
REFUSED, STUBBORN, SILENT = "[refused]", "[stubborn]", "[silent]"
"""Marks in a text: a 400 for ever, an answer that stays too long, an answer without a word."""

_TOLD = re.compile(
    r"has (\d+) characters?; it must have .+: (lengthen|shorten) it by at least (\d+)"
)
_FILL = "これは短くまとめた要約の文章であり、長さだけが少しずつ変わっていきます、"


def drawn(*parts: object) -> int:
    """A number that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


@dataclass
class Teacher:
    """`troubles`: answers that come in place of every n-th one. `delay`: seconds of each answer."""

    delay: float = 0.0
    troubles: Mapping[int, Answer] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, body: Mapping[str, Any]) -> Answer:
        with self._lock:
            number = next(self._count)
        for every, trouble in self.troubles.items():
            if number % every == 0:
                return trouble
        messages = body["messages"]
        if any(REFUSED in message["content"] for message in messages):
            return Answer(status=400, body={"error": {"message": "this text is not for me"}})
        text = self.said(messages)
        spent = {"prompt_tokens": len(str(messages)), "answer_tokens": len(text)}
        return Answer(body=completion(text, **spent), delay=self.delay)

    def said(self, messages: list[Mapping[str, Any]]) -> str:
        asked = [m["content"] for m in messages if m["role"] == "user"]
        if SILENT in asked[0]:
            return ""
        return summary(asked[0], self.length(asked))

    def length(self, asked: list[str]) -> int:
        """Characters of the next answer: about one first answer in six is near enough; of those
        that were told a number, two in three keep to it.
        """
        if STUBBORN in asked[0]:
            return 2 * TARGET
        told = _TOLD.search(asked[-1])
        if told is None:
            return TARGET - 25 + drawn(asked[0], len(asked)) % 61
        now, off = int(told[1]), int(told[3])
        step = off + drawn(asked) % 3 if drawn(asked, "heard") % 3 else max(1, off // 2)
        return now + (step if told[2] == "lengthen" else -step)


def summary(text: str, length: int) -> str:
    """Exactly so many characters about a text."""
    head = re.sub(r"\s+", "", text)[-12:]
    return ((head + "：" + _FILL * (1 + length // len(_FILL)))[: length - 1] + "。")[:length]


TROUBLES = {
    13: Answer(status=429, body={"error": {"message": "slow"}}, headers={"Retry-After": "0.02"}),
    17: Answer(status=500, body={}),
    19: Answer(dropped=True),
    23: Answer(body=b'{"choices": [{"mess'),
    29: Answer(body=completion("too late"), delay=1.5),
}
"""All that passes by itself; the last one needs a `timeout_seconds` below 1.5."""


@contextmanager
def running_teacher(
    *, delay: float = 0.0, troubles: Mapping[int, Answer] | None = None
) -> Iterator[ChatServer]:
    with running_chat(Teacher(delay, troubles or {})) as server:
        yield server


# --- ideas ----------------------------------------------------------------------------------------

PLACES = ["駅", "公園", "学校", "台所", "図書館", "海", "山", "病院", "畑", "商店街", "橋", "庭"]
TROUBLED = ["さいふを落とし", "道に迷い", "おなかがすき", "雨にぬれ", "足をくじき", "泣い"]


def pair(number: int) -> dict[str, str]:
    """72 questions that are not near each other, then the same ones again."""
    place, trouble = PLACES[number % 12], TROUBLED[number // 12 % 6]
    said = f"{place}ならぼくにまかせて、いっしょに行こう！"
    return {
        "question": f"{place}で{trouble}ました。{trouble}た{place}はこわいです。",
        "answer": said,
    }


def ideas(body: Mapping[str, Any]) -> Answer:
    """Ten pairs a request as models write them: fenced, numbered, one of them broken, one of them
    a seed's question again. Which ones hangs on the request alone.
    """
    asked = body["messages"][0]["content"]
    shown = [json.loads(line) for line in asked.split("\n") if line.startswith('{"question"')]
    start = drawn(asked) % 72
    lines = [json.dumps(pair(start + k), ensure_ascii=False) for k in range(8)]
    repeated = json.dumps({"question": shown[0]["question"], "answer": "x"}, ensure_ascii=False)
    lines = [*lines[:3], '{"question": "切れた', *lines[3:], repeated]
    numbered = "\n".join(f"{k}. {line}" for k, line in enumerate(lines, start=1))
    return Answer(body=completion(f"はい、どうぞ。\n```json\n{numbered}\n```"))


if __name__ == "__main__":
    import endpoint.chat_server as served

    handler = type("Handler", (served._Handler,), {"chat": ChatServer(Teacher(delay=0.05))})
    with served._Server(("127.0.0.1", int(sys.argv[1])), handler) as server:
        print(f"http://127.0.0.1:{server.server_port}/v1", flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 1e9)

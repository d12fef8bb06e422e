"""A real model behind a real socket teaches what it teaches beside the program."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.distilling import Carry, answers, write_texts
from endpoint.chat_server import Answer, completion, running_chat
from tiny import TINY_CHAT

from tanren.generate import Decoding
from tanren.session import open_session

QUESTIONS = ("空はなぜ青いの？", "傘とは何ですか。", "3たす4はいくつですか。", "Who are you?")


class TinyChat:
    """`data/tiny-chat` as an endpoint: one answer at a time, greedy."""

    def __init__(self) -> None:
        self.session = open_session(str(TINY_CHAT))
        self.lock = threading.Lock()

    def __call__(self, body: Mapping[str, Any]) -> Answer:
        decoding = Decoding(max_new_tokens=body["max_tokens"])
        with self.lock, self.session.stream(body["messages"], decoding) as stream:
            for _ in stream:
                pass
            said = stream.answer
        spent = {"answer_tokens": len(said.token_ids), "finish_reason": said.finish_reason}
        return Answer(body=completion(said.text, **spent))


def test_over_http_it_teaches_the_same(tmp_path: Path, carry_out: Carry) -> None:
    folder = write_texts(tmp_path / "texts", 0)
    for number, question in enumerate(QUESTIONS):
        (folder / f"{number}.txt").write_text(question, encoding="utf-8")
    common = {"source": str(folder), "constraints": [{"length": {"min": 3, "max": 40}}],
              "repairs": 1}  # fmt: skip
    limits = {"max_tokens": 32}
    beside = carry_out({**common, "teacher": {"model": str(TINY_CHAT), **limits}})
    found = answers(beside.folder.train_file)
    with running_chat(TinyChat()) as server:
        teacher = {"base_url": server.url, "model": "tiny-chat", "timeout_seconds": 60.0, **limits}
        over = carry_out({**common, "teacher": teacher}, overwrite=True)
    assert answers(over.folder.train_file) == found and len(found) >= 3
    assert over.spent["answer_tokens"] == beside.spent["answer_tokens"]

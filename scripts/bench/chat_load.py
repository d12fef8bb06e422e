"""Many streaming chats at once against any server that speaks OpenAI's chat completions.

    python -m bench.chat_load http://127.0.0.1:8000/v1 MODEL --chats 64 --new-tokens 64

prints one JSON object. Both servers of a comparison are loaded by this same process, so what the
load itself costs is the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2 as httpx


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat as its client saw it; seconds since its request was sent. `error` is empty where it
    came to its end.
    """

    first: float | None
    """Until the first text."""
    seconds: float
    text: str
    error: str
    retried: int = 0


async def load(
    address: str,
    model: str,
    questions: Sequence[str],
    *,
    new_tokens: int,
    key: str | None = None,
    models: Sequence[str] = (),
) -> tuple[list[Chat], float]:
    """All questions at the same time; the chats in their order and seconds for all of them.

    With `models` the chats take turns among them.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(timeout=600.0, limits=limits, headers=headers) as client:
        names = list(models) or [model]
        began = time.perf_counter()
        chats = await asyncio.gather(
            *[
                _chat(client, address, names[place % len(names)], question, new_tokens)
                for place, question in enumerate(questions)
            ]
        )
        return list(chats), time.perf_counter() - began


async def _chat(
    client: httpx.AsyncClient, address: str, model: str, question: str, new_tokens: int
) -> Chat:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": new_tokens,
        "temperature": 0,
        "stream": True,
    }
    began = time.perf_counter()
    first, pieces, error = None, [], ""
    try:
        async with client.stream("POST", f"{address}/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                error = f"{answer.status_code} {(await answer.aread()).decode()[:200]}"
            async for line in answer.aiter_lines():
                piece, problem = _read(line)
                error = error or problem
                if piece:
                    first = first or time.perf_counter() - began
                    pieces.append(piece)
    except httpx.HTTPError as problem:
        error = repr(problem)
    return Chat(first, time.perf_counter() - began, "".join(pieces), error)


def _read(line: str) -> tuple[str, str]:
    """The text and the error of one line of an event stream."""
    if not line.startswith("data: ") or line == "data: [DONE]":
        return "", ""
    event: dict[str, Any] = json.loads(line[6:])
    if "error" in event:
        return "", str(event["error"])
    choices = event.get("choices") or []
    return (choices[0]["delta"].get("content") or "" if choices else ""), ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("model", nargs="+")
    parser.add_argument("--chats", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--questions", required=True, help="JSON list of texts")
    options = parser.parse_args(arguments)
    with open(options.questions, encoding="utf-8") as file:
        known = json.load(file)
    questions = (known * (options.chats // len(known) + 1))[: options.chats]
    chats, seconds = asyncio.run(
        load(
            options.address,
            options.model[0],
            questions,
            new_tokens=options.new_tokens,
            key=os.environ.get("OPENAI_API_KEY"),
            models=options.model,
        )
    )
    json.dump({"seconds": seconds, "chats": [asdict(chat) for chat in chats]}, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

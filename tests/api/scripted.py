"""An engine that says what a test wants to hear, in the words of `engine.wire`.

What the real one says is tested in a real server (`test_clients.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from tanren.engine.wire import Accepted, ChatRequest, Finished, Piece, Reply

Script = Callable[[ChatRequest], AsyncIterator[list[Reply]]]


async def echo(request: ChatRequest) -> AsyncIterator[list[Reply]]:
    """Repeats the last message, a character at a time."""
    text = request.messages[-1]["content"]
    yield [Accepted(request.id, 7, "fp_scripted")]
    for character in text:
        await asyncio.sleep(0)
        yield [Piece(request.id, index, character) for index in range(request.choices)]
    yield [Finished(request.id, index, "stop", len(text)) for index in range(request.choices)]


def saying(*lines: list[Reply]) -> Script:
    """`saying([Accepted("", 3, "fp")], ...)`: these lines, whatever is asked."""

    async def script(request: ChatRequest) -> AsyncIterator[list[Reply]]:
        for line in lines:
            await asyncio.sleep(0)
            yield line

    return script


class ScriptedEngine:
    """`asked`: requests that came. `left`: ids of those that nobody listened to any more."""

    def __init__(self) -> None:
        self.script: Script = echo
        self.asked: list[ChatRequest] = []
        self.left: list[str] = []
        self.unloaded: list[str | None] = []

    async def unload(self, folder: str | None = None) -> None:
        self.unloaded.append(folder)

    async def chat(self, request: ChatRequest) -> AsyncIterator[list[Reply]]:
        self.asked.append(request)
        whole = False
        try:
            async for replies in self.script(request):
                yield replies
            whole = True
        finally:
            if not whole:
                self.left.append(request.id)

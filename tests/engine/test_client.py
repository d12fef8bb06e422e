"""The engine as a process: started, killed, unloaded, left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from engine.answering import Told, alone, request, target

from tanren.engine import client as client_module
from tanren.engine.client import EngineClient
from tanren.engine.lines import order_line, read_replies
from tanren.engine.wire import ChatRequest, EngineSettings, EngineState
from tanren.store.settings import Serving

TO = target(tiny.TINY_CHAT)
ENDLESS = {"max_tokens": 900, "logit_bias": {2: -100.0}}
ENVIRONMENT = {"TANREN_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def run(scene: Callable[[EngineClient], Coroutine[Any, Any, None]], log: Path, **more: Any) -> None:
    async def played() -> None:
        async with open_client(log, **more) as client:
            await asyncio.wait_for(scene(client), 90)

    asyncio.run(played())


@asynccontextmanager
async def open_client(
    log: Path, environment: dict[str, str] | None = None, **serving: Any
) -> AsyncIterator[EngineClient]:
    client = EngineClient(
        Serving(**serving), log=log, environment={**ENVIRONMENT, **(environment or {})}
    )
    try:
        yield client
    finally:
        await client.close()
        assert not client.busy().process


async def answer(client: EngineClient, asked: ChatRequest) -> Told:
    told = Told()
    async with aclosing(client.chat(asked)) as replies:
        async for several in replies:
            for reply in several:
                told.add(reply)
    return told


async def until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


def test_the_life_of_an_engine(
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    tuned: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few processes for many laws, because each takes seconds to start."""
    monkeypatch.setattr(client_module, "UNREAD_BYTES", 100_000)
    log = tmp_path / "logs" / "engine.log"
    to, folder = target(tiny_model()), tuned(seed=1)
    expected = {text: alone(to, text) for text in tiny.QUESTIONS}

    async def scene(client: EngineClient) -> None:
        assert client.busy() == EngineState()
        # many at once, each its own answer
        told = await asyncio.gather(
            *(answer(client, request(text, to, text)) for text in tiny.QUESTIONS),
            answer(client, request("tuned", target(tiny_model(), folder))),
        )
        assert [each.text for each in told[:-1]] == list(expected.values())
        assert told[-1].text == alone(target(tiny_model(), folder), "Who are you?")
        first = client.busy().process
        assert first is not None and client.busy().bases == (to.base,)
        await _a_deleted_model_is_forgotten(client, folder)
        await _closing_frees_the_place(client)
        await _slow_readers(client)
        await _what_is_too_deep_is_refused(client)
        # a killed engine: those in hand are told, the next one is answered
        asked = [asyncio.create_task(answer(client, request(n, TO, **ENDLESS))) for n in "ab"]
        await until(lambda: client.busy().running == 2)
        os.kill(first, signal.SIGKILL)
        for each in await asyncio.gather(*asked):
            assert each.pieces and each.failed is not None
            assert each.failed.kind == "engine" and "signal 9" in each.failed.message
        again = await answer(client, request("again", to, tiny.QUESTIONS[0]))
        assert again.text == expected[tiny.QUESTIONS[0]]
        second = client.busy().process
        assert second not in (None, first) and not psutil.pid_exists(first)
        # unloading ends the process; what is in hand may become complete
        short = {**ENDLESS, "max_tokens": 100}
        last = asyncio.create_task(answer(client, request("last", TO, **short)))
        await until(lambda: client.busy().running == 1)
        await client.unload()
        assert client.busy().process is None and not psutil.pid_exists(second)
        assert (await last).ends[0].completion_tokens == 100

    run(scene, log, max_bases=2)
    assert log.is_file()


async def _a_deleted_model_is_forgotten(client: EngineClient, folder: Path) -> None:
    assert client.busy().adapters == (str(folder),)
    await client.unload(str(folder))
    assert client.busy().adapters == () and client.busy().bases
    await client.unload("/never/loaded")


async def _closing_frees_the_place(client: EngineClient) -> None:
    async with aclosing(client.chat(request("gone", TO, **ENDLESS))) as replies:
        async for _ in replies:
            if client.busy().running == 1:
                break
    began = client.busy().steps
    await until(lambda: client.busy().running == 0)
    assert client.busy().steps - began < 100


async def _slow_readers(client: EngineClient) -> None:
    """Pieces that nobody has read become one; too much that cannot be joined ends the request."""
    many: list[int] = []
    async with aclosing(client.chat(request("text", TO, **{**ENDLESS, "max_tokens": 300}))) as each:
        async for several in each:
            many.append(len(several))
            if len(many) == 2:
                await until(lambda: client.busy().running == 1)
                await until(lambda: client.busy().running == 0)
    assert max(many) <= 3 and sum(many) < 150
    last = None
    asked = request("heavy", TO, logprobs=20, **ENDLESS)
    async with aclosing(client.chat(asked)) as replies:
        async for several in replies:
            last = several[-1]
            await asyncio.sleep(0.5)
    assert last is not None and "too slowly" in str(last)
    await until(lambda: client.busy().running == 0)


@pytest.mark.slow
async def _what_is_too_deep_is_refused(client: EngineClient) -> None:
    """Such arguments are JSON text in a request's body, so its own check does not see them."""
    value: Any = 1
    for _ in range(900):
        value = {"a": value}
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": value}}]
    messages = ({"role": "assistant", "content": "", "tool_calls": calls},)
    told = await answer(client, ChatRequest("deep", TO, messages))
    assert told.failed is not None and told.failed.kind == "request"


def test_too_many_are_refused_and_sigterm_tells_everybody(tmp_path: Path) -> None:
    async def scene(client: EngineClient) -> None:
        told = await asyncio.gather(
            *(answer(client, request(str(n), TO, max_tokens=40)) for n in range(5))
        )
        kinds = [each.failed.kind if each.failed else None for each in told]
        assert kinds == [None, None, None, "busy", "busy"]
        asked = asyncio.create_task(answer(client, request("a", TO, **ENDLESS)))
        await until(lambda: client.busy().running == 1)
        process = client.busy().process
        assert process is not None
        os.kill(process, signal.SIGTERM)
        last = await asked
        assert last.failed is not None and last.failed.message == "The engine was stopped."
        await until(lambda: not psutil.pid_exists(process))

    run(scene, tmp_path / "log", max_batch=1, max_waiting=2)


def test_an_idle_engine_gives_its_memory_back(tmp_path: Path) -> None:
    async def scene(client: EngineClient) -> None:
        await client.start()
        process = client.busy().process
        assert process is not None
        await until(lambda: client.busy().process is None)
        assert not psutil.pid_exists(process)

    run(scene, tmp_path / "log", idle_unload_seconds=0.3)


def test_while_it_rests_no_process_is_started(tmp_path: Path) -> None:
    async def scene() -> None:
        words: list[str | None] = ["the device is training"]
        client = EngineClient(
            Serving(), log=tmp_path / "log", environment=ENVIRONMENT, rests=lambda: words[0]
        )
        refused = await answer(client, request("1", TO))
        assert refused.failed is not None and refused.failed.kind == "busy"
        assert refused.failed.message == "the device is training"
        assert client.busy().process is None
        words[0] = None
        await client.start()
        assert client.busy().process is not None
        words[0] = "the device is training"  # what is loaded already goes on
        await client.start()
        assert client.busy().process is not None
        await client.close()

    asyncio.run(asyncio.wait_for(scene(), 60))


def test_an_engine_that_cannot_start_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python itself fails for want of its library; its words are in the log."""
    monkeypatch.setattr(client_module, "CRASH_SECONDS", 3.0)
    log = tmp_path / "log"

    async def scene(client: EngineClient) -> None:
        said = [await answer(client, request(str(number), TO)) for number in range(5)]
        messages = [each.failed.message for each in said if each.failed]
        assert len(messages) == 5
        assert all("exit code" in message and str(log) in message for message in messages[:3])
        assert all("3 times in a row" in message for message in messages[3:])
        await asyncio.sleep(3.0)
        tried = await answer(client, request("6", TO))
        assert tried.failed is not None and "exit code" in tried.failed.message

    run(scene, log, environment={"PYTHONHOME": str(tmp_path / "nowhere")})
    assert log.read_text(encoding="utf-8", errors="replace").count("Fatal Python error") == 4


def test_the_engine_ends_with_its_parent_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    """The parent is killed outright; within a second nothing of the engine is left."""
    parent = tmp_path / "parent.py"
    parent.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'tanren.engine'],\n"
        "    stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "for order in sys.argv[1:]:\n"
        "    child.stdin.write(order.encode() + b'\\n')\n"
        "child.stdin.flush()\n"
        "print(child.pid, flush=True)\n"
        "for line in child.stdout:\n"
        "    if b'Piece' in line: print('writing', flush=True)\n",
        encoding="utf-8",
    )
    orders = [order_line(EngineSettings()), order_line(request("a", TO, **ENDLESS))]
    started = subprocess.Popen(
        [sys.executable, str(parent), *(order.decode().strip() for order in orders)],
        stdout=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    with started:
        assert started.stdout is not None
        engine = psutil.Process(int(started.stdout.readline()))
        assert started.stdout.readline() == b"writing\n"
        started.kill()
    killed = time.monotonic()
    while engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - killed < 1.0, "it outlives its parent"
        time.sleep(0.01)


def test_what_libraries_print_is_no_reply() -> None:
    """A module that writes to stdout in every way, imported by the engine's own interpreter."""
    code = (
        "import os, sys, threading, time\n"
        "from tanren.engine import __main__ as engine\n"
        "own = engine._own_stdout()\n"
        "print('print'); sys.stdout.flush(); os.write(1, b'raw\\n'); os.system('echo child')\n"
        "own.write(b'[[],null]\\n'); own.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"[[],null]\n"
    assert read_replies(done.stdout) == ([], None)
    assert sorted(done.stderr.split()) == [b"child", b"print", b"raw"]

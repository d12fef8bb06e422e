"""Devices left to jobs, and a dispatcher that dies: what the server makes of both."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tanren.api import server
from tanren.api.server import GivenUp, listen
from tanren.jobs.process import Stop
from tanren.jobs.service import JobService
from tanren.jobs.slots import Slot


class Scene:
    """Jobs at work, and a clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.running: dict[str, str] = {}
        self.given_up = GivenUp(clock=lambda: self.now)
        self.given_up.running = lambda: self.running


def test_a_device_rests_from_the_first_word_until_its_job_has_ended() -> None:
    scene = Scene()
    why = scene.given_up.why
    assert why() is None
    with scene.given_up.leaving("GPU 0"):
        scene.now += 45  # the last answers are being written
        assert "left to a job" in (why() or "")
    assert "left to a job" in (why() or ""), "until it is seen at work"
    scene.now += 4
    scene.running["ftjob-a"] = "GPU 0"
    assert "ftjob-a" in (why() or "")
    scene.now += 10_000
    assert "ftjob-a" in (why() or ""), "however long it takes"
    scene.running.clear()
    assert why() is None
    scene.running["ftjob-b"] = "GPU 0"
    assert why() is None, "what began beside models leaves them in peace"


def test_a_job_that_did_not_begin_gives_its_device_back() -> None:
    scene = Scene()
    with scene.given_up.leaving("GPU 0"):
        pass
    scene.now += 6
    assert scene.given_up.why() is None


def test_jobs_on_slots_that_nobody_left_are_no_reason() -> None:
    scene = Scene()
    scene.running["ftjob-a"] = "GPU 1"
    assert scene.given_up.why() is None


def test_asked_while_jobs_come_and_go(make_service: Callable[..., JobService]) -> None:
    """`running` is read by other threads than the one that changes it."""
    from tanren.jobs.dispatch import Dispatcher

    class At:
        slot = Slot("here")

    dispatcher = Dispatcher(make_service(), slots=[At.slot])
    attempts: dict[str, object] = dispatcher._attempts  # type: ignore[assignment]
    attempts.update({f"always{n}": At() for n in range(200)})
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for n in range(50):
                attempts[str(n)] = At()
            for n in range(50):
                del attempts[str(n)]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3000):
            assert len(dispatcher.running) >= 200
    finally:
        over.set()
        thread.join()


def test_a_dispatcher_that_dies_of_a_bug_ends_the_server_with_it(
    make_service: Callable[..., JobService], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tanren.jobs.dispatch.Dispatcher._tick", fail)
    service = make_service(serving={"enabled": False})
    with listen("127.0.0.1", 0) as bound, pytest.raises(ZeroDivisionError, match="a bug"):
        asyncio.run(server._serve(service, bound, Stop(), lambda: None))


def test_only_jobs_on_the_serving_gpu_ask_models_to_leave(
    make_service: Callable[..., JobService],
) -> None:
    """Of several GPUs the first one serves, and jobs take it last."""
    gpus = [Slot(f"GPU {n}", {"CUDA_VISIBLE_DEVICES": str(n)}, "cuda") for n in range(3)]
    service = make_service()

    async def scene() -> None:
        given_up = GivenUp()
        engine = server._engine(service, gpus[0], given_up)
        assert engine is not None and engine._environment["CUDA_VISIBLE_DEVICES"] == "0"
        dispatching = server._Dispatching(service, engine, Stop(), given_up, gpus)
        places = [slot.name for slot in dispatching.dispatcher.slots]
        assert places == ["GPU 1", "GPU 2", "GPU 0"]
        await asyncio.to_thread(dispatching._make_room, gpus[1], 10**9)
        assert given_up.why() is None
        await asyncio.to_thread(dispatching._make_room, gpus[0], 10**9)
        assert "GPU 0" in (given_up.why() or "")
        await engine.close()

    asyncio.run(scene())

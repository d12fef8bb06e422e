"""The server process: the API, the dispatcher of jobs in a thread, the engine as a child.

It ends orderly at SIGTERM or Ctrl-C: no new requests, streams get a few seconds, running jobs save
a checkpoint and go on from it at the next start. A second Ctrl-C ends them at once: they then go on
from the last checkpoint that they had. Killed, it leaves its jobs running, and the next start
follows them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import uvicorn

from tanren.api.app import create_app
from tanren.api.metrics import Gauge
from tanren.engine.client import EngineClient
from tanren.errors import Fault, UserError
from tanren.jobs.dispatch import Dispatcher, dispatcher_of
from tanren.jobs.process import Stop
from tanren.jobs.service import JobService
from tanren.jobs.slots import Slot, find_slots

log = logging.getLogger("tanren.service")

STREAM_SECONDS = 10
"""That answers may take to end once the server is asked to."""
_KEEP_ALIVE_SECONDS = 75
_UNLOAD_SECONDS = 60.0
_BEGIN_SECONDS = 5.0
"""From the moment that models have left a device until the job must be seen at work there. One that
does not fit even so waits on, and its device serves again.
"""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0: any free one. Raises UserError where the address cannot be had."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UserError.of(
            Fault(
                "host and port",
                f"{host}:{port}, which cannot be listened on ({error.strerror or error})",
                "a free port of an address of this machine",
                "choose another port, or 0 for any free one",
            )
        ) from None
    return bound


def address_of(bound: socket.socket, host: str) -> str:
    """`http://HOST:PORT` as clients on this machine reach it."""
    port = bound.getsockname()[1]
    if host in ("0.0.0.0", "::", ""):
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: JobService, bound: socket.socket, *, ready: Callable[[], None]) -> None:
    """Work until SIGTERM or Ctrl-C. `ready` is called when clients may come.

    Raises what the dispatcher fails with, such as another server that works on the same folder.
    """
    stop = Stop()
    with bound, stop.asked_by_signals(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(service, bound, stop, ready))


async def _serve(
    service: JobService, bound: socket.socket, stop: Stop, ready: Callable[[], None]
) -> None:
    given_up = GivenUp()
    slots = find_slots(service.config.slots)
    engine = _engine(service, slots[0], given_up)
    dispatching = _Dispatching(service, engine, stop, given_up, slots)
    app = create_app(service, engine, gauges=_gauges(engine, dispatching))
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STREAM_SECONDS,
        ),
        stop,
        ready,
    )
    try:
        if await dispatching.start():
            await server.serve(sockets=[bound])
    finally:
        stop.set()
        if engine is not None:
            await engine.close()
        await dispatching.end()
    if dispatching.error is not None:
        raise dispatching.error


def _engine(service: JobService, slot: Slot, given_up: GivenUp) -> EngineClient | None:
    """Of several GPUs it has this one."""
    serving = service.config.serving
    if not serving.enabled:
        return None
    environment = slot.environment if slot.kind == "cuda" else {}
    log_file = service.home / "engine.log"
    return EngineClient(serving, log=log_file, environment=environment, rests=given_up.why)


class GivenUp:
    """Devices that models have left to a job. Until that job has ended none is loaded there again:
    the job plans with the memory that it found.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.running: Callable[[], Mapping[str, str]] = dict
        """Jobs at work, by id, with the names of their slots."""
        self._clock = clock
        self._until: dict[str, float] = {}
        """Slot: when its job must have been seen there."""

    @contextlib.contextmanager
    def leaving(self, slot: str) -> Iterator[None]:
        """Around the time in which models leave, however long their last answers take."""
        self._until[slot] = math.inf
        try:
            yield
        finally:
            self._until[slot] = self._clock() + _BEGIN_SECONDS

    def why(self) -> str | None:
        """Words for who wants to chat meanwhile; None: nobody needs the device."""
        places = {slot: job for job, slot in self.running().items()}
        for slot, until in self._until.copy().items():
            if slot in places:
                return (
                    f"{slot} is training {places[slot]} and has no room for answers beside it "
                    "(serving.yield_to_training). Try again when the job has ended."
                )
            if self._clock() < until:
                return (
                    f"{slot} is being left to a job that begins (serving.yield_to_training). Try "
                    "again when the job has ended."
                )
            self._until.pop(slot, None)  # it ended, or never began
        return None


class _Server(uvicorn.Server):
    """Ends when `stop` is set; signals are caught outside, for the dispatcher needs them longer."""

    def __init__(self, config: uvicorn.Config, stop: Stop, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # modules stay: looking through them again and again would slow long lists
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self._stop.is_set()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is faster and nothing else
        return None
    return uvloop.new_event_loop


class _Dispatching:
    """The dispatcher in its thread."""

    def __init__(
        self,
        service: JobService,
        engine: EngineClient | None,
        stop: Stop,
        given_up: GivenUp,
        slots: Sequence[Slot],
    ) -> None:
        """Models are served on the first of `slots`; jobs take that one last."""
        self.error: BaseException | None = None
        self._home = service.home
        self._engine = engine
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._serves_on = slots[0]
        self.dispatcher = Dispatcher(
            service, make_room=self._make_room, slots=(*slots[1:], slots[0])
        )
        self._given_up = given_up
        given_up.running = lambda: self.dispatcher.running
        self._thread = threading.Thread(target=self._run, name="dispatcher")

    async def start(self) -> bool:
        """False where it could not begin: `error` says why."""
        self._thread.start()
        while self._thread.is_alive() and dispatcher_of(self._home) != os.getpid():
            await asyncio.sleep(0.01)
        return self.error is None

    async def end(self) -> None:
        """Wait for running jobs to save what they have."""
        if self._thread.is_alive():
            log.info("running jobs save a checkpoint; Ctrl-C again ends them at once")
        while self._thread.is_alive():
            await asyncio.sleep(0.05)
        self._thread.join()

    def _run(self) -> None:
        try:
            self.dispatcher.run(self._stop)
        except BaseException as error:  # this thread has nobody above it: `_serve` raises it
            self.error = error
        finally:
            self._stop.set()

    def _make_room(self, slot: Slot, needed_bytes: int) -> None:
        """In the dispatcher's thread: the engine gives its memory back."""
        if self._engine is None or self._stop.is_set():
            return
        if slot.kind == "cuda" and slot.name != self._serves_on.name:
            return  # models take none of its memory
        with self._given_up.leaving(slot.name):
            future = asyncio.run_coroutine_threadsafe(self._engine.unload(), self._loop)
            with contextlib.suppress(TimeoutError):
                future.result(_UNLOAD_SECONDS)


def _gauges(engine: EngineClient | None, dispatching: _Dispatching) -> list[Gauge]:
    def slots() -> Mapping[str, float]:
        busy = len(dispatching.dispatcher.running)
        return {"running": busy, "free": len(dispatching.dispatcher.slots) - busy}

    places = Gauge("tanren_slots", "Places for jobs.", "state", slots)
    if engine is None:
        return [places]

    def state() -> Mapping[str, float]:
        now = engine.busy()
        return {"running": now.running, "waiting": now.waiting}

    def memory() -> Mapping[str, float]:
        return {"": engine.busy().memory_bytes}

    def loaded() -> Mapping[str, float]:
        now = engine.busy()
        return {"bases": len(now.bases), "adapters": len(now.adapters)}

    return [
        places,
        Gauge("tanren_engine_answers", "Answers that are written or wait.", "state", state),
        Gauge("tanren_engine_memory_bytes", "Memory of the engine's device.", "", memory),
        Gauge("tanren_engine_models", "Models in memory.", "kind", loaded),
    ]

"""A job that does not fit says why, never stops smaller ones for ever, and is never starved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs.stores import SOURCES, add_job, config

from tanren.config import RunConfig
from tanren.devices import host_memory
from tanren.jobs.attempts import Attempt
from tanren.jobs.follow import Follower
from tanren.jobs.memory import Memory, Neighbour, memory_of, verdict
from tanren.jobs.service import JobService
from tanren.jobs.slots import VISIBLE, Slot
from tanren.jobs.start import begin_running, refuse_start, say_waiting
from tanren.jobs.turns import OVERTAKING_SECONDS, Room
from tanren.rundir import RunDirectory, write_json
from tanren.store.records import JobRecord

CPU = Slot("CPU 1/2", {})
TWO = (CPU, Slot("CPU 2/2", {}))
TINY = SOURCES.parent / "data" / "tiny-chat" / "config.json"
MakeJob = Callable[..., JobRecord]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service")) as opened:
        yield opened


@pytest.fixture
def make_job(service: JobService, tmp_path: Path) -> MakeJob:
    """A queued job on a base of that width and depth, of which only config.json is there."""

    def make(hidden: int = 64, layers: int = 2, **settings: Any) -> JobRecord:
        base = tmp_path / f"base{hidden}x{layers}"
        base.mkdir(exist_ok=True)
        values = json.loads(TINY.read_text(encoding="utf-8"))
        values |= {"hidden_size": hidden, "intermediate_size": 4 * hidden}
        values |= {"num_hidden_layers": layers, "layer_types": ["full_attention"] * layers}
        write_json(base / "config.json", values)
        id = add_job(service)
        given = {"model": {"name": str(base)}, "data": {"train": "t"}, **settings}
        run = RunDirectory.create(tmp_path / id, RunConfig.model_validate(given))
        write_json(run.path / "job.json", {"longest_rows": [100] * 20, "method": "supervised"})
        with service.database.session() as session:
            from tanren.jobs.rows import job_row

            job_row(session, id).run = str(run.path)
        return service.jobs.get(id)

    return make


def run_of(job: JobRecord) -> RunDirectory:
    assert job.run is not None
    return RunDirectory(job.run)


def hog(service: JobService, job: JobRecord, needed: int) -> Attempt:
    """A job of ours that was promised so much and has taken none of it yet."""
    attempt = Attempt(
        job.id, run_of(job), TWO[1], Follower(service, job.id, run_of(job)), takes_place=True
    )
    attempt.needed = needed
    return attempt


def test_need_grows_with_model_rows_and_method(make_job: MakeJob) -> None:
    def needed(job: JobRecord) -> int:
        found = verdict(run_of(job), CPU)
        assert found is not None and found.fits
        return found.needed

    small, large = make_job(), make_job(256, 8)
    assert needed(large) > needed(small) + 50e6
    assert needed(make_job(256, 8, method={"name": "full"})) > needed(large) + 50e6
    before = needed(large)
    write_json(run_of(large).path / "job.json", {"longest_rows": [256] * 512, "method": "dpo"})
    assert needed(large) > before


def test_memory_that_a_neighbour_was_promised_is_not_free(make_job: MakeJob) -> None:
    job, free = make_job(), host_memory()[1]
    alone = memory_of(CPU)
    shared = memory_of(CPU, [Neighbour("ftjob-big", free - (1 << 20), None)])
    assert alone is not None and shared is not None
    assert shared.free < alone.free / 2
    found = verdict(run_of(job), CPU, [Neighbour("ftjob-big", 2 * free, None)])
    assert found is not None and not found.fits and found.ever_fits
    for words in ("It needs ", "GB of memory; CPU 1/2 has 0.0 GB free of", "by job ftjob-big"):
        assert words in found.words


def test_what_cannot_be_known_is_not_waited_for(make_job: MakeJob, tmp_path: Path) -> None:
    assert memory_of(Slot("part", {VISIBLE: "MIG-1"}, "cuda")) is None
    elsewhere = make_job(model={"name": "nobody/never-downloaded"})
    assert verdict(run_of(elsewhere), CPU) is None
    assert Room("when_needed", None).find(elsewhere, [CPU], [CPU], []).slot == CPU


def test_a_job_too_large_for_every_slot_fails_and_says_what_would_fit(
    service: JobService, make_job: MakeJob
) -> None:
    giant = make_job(32_768, 200)
    turn = Room("when_needed", None).find(giant, [CPU], TWO[:1], [])
    assert turn.never and turn.slot is None
    refuse_start(service, giant, turn.words)
    found = service.jobs.get(giant.id)
    assert found.status == "failed" and found.error is not None
    assert found.error.code == "insufficient_memory"
    assert "GB" in found.error.message and "smaller model" in found.error.message
    other_slot = Room("when_needed", None).find(giant, [CPU], TWO, [])
    assert not other_slot.never, "while a slot was not looked at, it may still fit there"


def test_small_jobs_overtake_for_ten_minutes_and_then_no_more(
    service: JobService, make_job: MakeJob
) -> None:
    now = [0.0]
    room = Room("when_needed", None, clock=lambda: now[0])
    large, holder = make_job(1024, 8), make_job()
    hogs = [hog(service, holder, host_memory()[1])]
    for at, holds in ((0.0, False), (OVERTAKING_SECONDS - 1, False), (OVERTAKING_SECONDS, True)):
        now[0] = at
        turn = room.find(large, [CPU], TWO, hogs)
        assert turn.slot is None and turn.words and turn.holds_others == holds, at
        assert not room.is_due(), "memory is not asked after again at once"
    fits = room.find(large, [CPU], TWO, [])
    assert fits.slot == CPU and fits.needed > 0
    now[0] += 5
    assert not room.find(large, [CPU], TWO, hogs).holds_others, "its patience begins anew"


def test_served_models_are_asked_to_leave_by_the_rule(
    service: JobService, make_job: MakeJob
) -> None:
    large, small = make_job(1024, 8), make_job()
    asked: list[tuple[str, int]] = []
    hogs = [hog(service, small, host_memory()[1])]

    def make_room(slot: Slot, needed: int) -> None:
        asked.append((slot.name, needed))
        hogs[0].needed = 0

    assert Room("never", make_room).find(large, [CPU], TWO, hogs).slot is None and not asked
    room = Room("when_needed", make_room)
    assert room.find(large, [CPU], TWO, hogs).slot == CPU, "looked again after they left"
    assert len(asked) == 1 and asked[0][1] > 1 << 20
    assert room.find(small, [CPU], TWO, hogs).slot == CPU and len(asked) == 1
    assert Room("always", make_room).find(small, [CPU], TWO, hogs).slot == CPU
    assert len(asked) == 2


def test_models_stay_while_another_slot_has_room(
    service: JobService, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [Slot(f"GPU {n}", {VISIBLE: f"GPU-{n}"}, "cuda") for n in (0, 1)]
    free = {"GPU 0": 1 << 20, "GPU 1": 80 << 30}
    looked: list[str] = []

    def memory(slot: Slot) -> Memory:
        looked.append(slot.name)
        return Memory(80 << 30, free[slot.name])

    monkeypatch.setattr("tanren.jobs.turns.memory_of", memory)
    asked: list[str] = []
    room = Room("when_needed", lambda slot, needed: asked.append(slot.name))
    jobs = [make_job() for _ in range(3)]
    assert room.find(jobs[0], cards, cards, []).slot == cards[1] and not asked
    free["GPU 1"] = 1 << 20
    looked.clear()
    with room.looking():
        for job in jobs[1:]:
            assert room.find(job, cards, cards, []).slot is None
    assert asked == ["GPU 0"] * 2, "each once; the next one when that has not helped for a while"
    assert looked.count("GPU 1") == 1, "a card is asked once a look"


def test_models_are_asked_ever_more_rarely_for_a_job_that_fits_nowhere(
    service: JobService, make_job: MakeJob
) -> None:
    now, asked = [0.0], []
    room = Room("when_needed", lambda *_: asked.append(now[0]), clock=lambda: now[0])
    large, holder = make_job(1024, 8), make_job()
    hogs = [hog(service, holder, host_memory()[1])]
    for _ in range(80):
        room.find(large, [CPU], TWO, hogs)
        now[0] += 10
    assert asked == [0, 10, 30, 70, 150, 310, 630]


def test_looking_takes_a_small_share_of_the_time(service: JobService, make_job: MakeJob) -> None:
    now = [0.0]
    room = Room("when_needed", None, clock=lambda: now[0])
    large, holder = make_job(1024, 8), make_job()
    hogs = [hog(service, holder, host_memory()[1])]
    with room.looking():
        room.find(large, [CPU], TWO, hogs)
        now[0] += 0.5
    now[0] += 19
    assert not room.is_due()
    now[0] += 2
    assert room.is_due()
    with room.looking():
        room.find(large, [CPU], TWO, hogs)
        now[0] += 0.5
    room.look_now()
    assert room.is_due(), "a job has ended: there may be room"


def test_the_reason_is_kept_told_once_and_gone_when_it_starts(
    service: JobService, make_job: MakeJob
) -> None:
    job = make_job()
    say_waiting(service, job, "It needs 3 GB")
    say_waiting(service, service.jobs.get(job.id), "It needs 4 GB")
    assert service.jobs.get(job.id).waiting_for == "It needs 4 GB"
    told = [event.message for event in service.jobs.events(job.id).items]
    assert told == ["The job waits for memory. It needs 3 GB"]
    assert begin_running(service, job, CPU)
    found = service.jobs.get(job.id)
    assert (found.status, found.waiting_for, found.slot) == ("running", None, CPU.name)
    assert found.hyperparameters == {"n_epochs": 3}, "resolved at the start"
    service.jobs.cancel(job.id)
    assert not begin_running(service, job, CPU), "cancelled in between"

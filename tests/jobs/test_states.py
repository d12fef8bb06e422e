"""A job becomes only what it may, once, and says so once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from jobs.stores import add_job, config
from sqlalchemy import func, select

from tanren.jobs.queue import JobQueue
from tanren.jobs.service import JobService
from tanren.jobs.states import STATUSES, become, may_become
from tanren.jobs.telling import Told, tell
from tanren.store.errors import InvalidRequest, InvalidState, NotFound
from tanren.store.records import TERMINAL, JobStatus
from tanren.store.tables import EventRow

LEGAL = {
    ("validating_files", "queued"), ("queued", "running"), ("running", "succeeded"),
    ("running", "pausing"), ("pausing", "paused"), ("paused", "queued"),
    ("pausing", "succeeded"),  # it was done before it could stop
    ("queued", "paused"),  # nothing to be saved
}  # fmt: skip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service")) as opened:
        yield opened


@pytest.fixture
def jobs(service: JobService) -> JobQueue:
    return service.jobs


def test_the_table_is_the_contracts() -> None:
    for before in STATUSES:
        for after in STATUSES:
            ends = before not in TERMINAL and after in ("failed", "cancelled")
            assert may_become(before, after) == (ends or (before, after) in LEGAL), (before, after)


def test_of_many_that_want_to_change_it_one_does(service: JobService) -> None:
    """Compare and set: sixteen threads, one winner, one event."""
    id = add_job(service, status="paused")
    won: list[str] = []

    def resume() -> None:
        try:
            service.jobs.resume(id)
            won.append("resume")
        except InvalidState as error:
            assert error.code == "invalid_job_state"

    threads = [threading.Thread(target=resume) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == ["resume"]
    told = [event.message for event in service.jobs.events(id).items]
    assert told == ["The job was resumed"]


def test_a_change_that_comes_too_late_changes_nothing(service: JobService) -> None:
    id = add_job(service, status="running")
    service.jobs.cancel(id)
    before = service.jobs.get(id)
    assert before.finished_at is not None
    with service.database.session() as session:
        assert not become(session, id, "succeeded", fine_tuned_model="ft:x")
    assert service.jobs.get(id) == before


def test_an_event_is_told_once_and_all_or_nothing_with_its_state(service: JobService) -> None:
    id = add_job(service)
    with service.database.session() as session:
        assert tell(session, id, Told("a", "one"), Told("a", "two"), Told("b", "three")) == 2
    with pytest.raises(RuntimeError), service.database.session() as session:
        tell(session, id, Told("c", "four"))
        become(session, id, "cancelled")
        raise RuntimeError("the machine dies here")
    assert service.jobs.get(id).status == "queued"
    assert [event.message for event in service.jobs.events(id).items] == ["three", "one"]
    with service.database.session() as session:
        assert tell(session, id, *(Told(str(n), "many") for n in range(1200))) == 1200
        assert tell(session, id, *(Told(str(n), "many") for n in range(1201))) == 1
        assert session.scalar(select(func.count()).select_from(EventRow)) == 1203


@pytest.mark.parametrize("status", STATUSES)
def test_what_clients_may_ask_in_every_state(jobs: JobQueue, status: JobStatus) -> None:
    """Terminal: nothing. Paused: resumed, cancelled. A pause that is asked for twice is one."""
    service = jobs._service
    after: dict[str, dict[JobStatus, JobStatus]] = {
        "cancel": {s: "cancelled" for s in STATUSES if s not in TERMINAL},
        "pause": {
            "queued": "paused", "running": "pausing", "pausing": "pausing", "paused": "paused",
        },
        "resume": {"paused": "queued"},
    }  # fmt: skip
    for wish, allowed in after.items():
        id = add_job(service, status=status)
        change = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume}[wish]
        if status in allowed:
            assert change(id).status == allowed[status] == jobs.get(id).status
        else:
            with pytest.raises(InvalidState) as refused:
                change(id)
            assert (refused.value.code, refused.value.status) == ("invalid_job_state", 400)
            assert jobs.get(id).status == status and not jobs.events(id).items
    with pytest.raises(NotFound) as gone:
        jobs.cancel("ftjob-none")
    assert gone.value.code == "fine_tune_not_found"


def test_turns_follow_priority_then_place_and_jobs_can_be_moved(
    service: JobService, jobs: JobQueue
) -> None:
    ids = [add_job(service, place=float(n + 1)) for n in range(5)]
    a, b, c, d, e = ids

    def order() -> list[str]:
        return [job.id for job in jobs.waiting()]

    assert order() == ids
    jobs.move(d, priority=3)
    assert order() == [d, a, b, c, e]
    jobs.move(e, before=b)
    assert order() == [d, a, e, b, c]
    jobs.move(c, before=d)
    assert order() == [c, d, a, e, b] and jobs.get(c).priority == 3
    jobs.move(b, to_front=True)
    assert order() == [b, c, d, a, e]
    jobs.move(d, priority=0)
    jobs.move(d, before=a)
    for _ in range(35):  # halving the same gap again and again runs out of numbers between
        jobs.move(e, before=a)
        assert order()[-3:] == [d, e, a]
        jobs.move(d, before=a)
        assert order()[-3:] == [e, d, a]
    for wrong in ({}, {"priority": 1, "to_front": True}, {"before": e}, {"priority": 1001}):
        with pytest.raises(InvalidRequest):
            jobs.move(e, **wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        jobs.move(e, before="ftjob-none")
    with pytest.raises(InvalidState):
        jobs.move(add_job(service, status="running"), priority=1)


def test_lists_page_newest_first_to_an_end_and_filter(service: JobService, jobs: JobQueue) -> None:
    ids = [add_job(service, metadata_={"a": str(n % 2)}) for n in range(7)]
    plain = add_job(service, status="failed")
    odd = {'k"ey': "v", "キー": "値", "a": "1", "b.c": "x"}
    other = add_job(service, metadata_=odd)
    seen: list[str] = []
    after = None
    while page := jobs.list(limit=4, after=after).items:
        seen += [job.id for job in page]
        after = page[-1].id
    assert seen == [other, plain, *reversed(ids)]
    assert not jobs.list(limit=4, after=ids[0]).has_more
    assert [j.id for j in jobs.list(metadata={"a": "1"}).items] == [other, *ids[5:0:-2]]
    for key, value in odd.items():
        assert other in {job.id for job in jobs.list(metadata={key: value}).items}, key
        assert not jobs.list(metadata={key: value + "!"}).items
    assert not jobs.list(metadata={'k"ey': "v", "a": "0"}).items, "all pairs, not any"
    assert [job.id for job in jobs.list(without_metadata=True).items] == [plain]
    assert [job.id for job in jobs.list(statuses=["failed"]).items] == [plain]
    counts = jobs.counts()
    assert (counts["queued"], counts["failed"], counts["paused"]) == (8, 1, 0)
    assert tuple(counts) == STATUSES
    with pytest.raises(InvalidRequest):
        jobs.list(after="ftjob-none")


def test_events_page_backwards_and_can_be_followed_forwards(
    service: JobService, jobs: JobQueue
) -> None:
    id, other = add_job(service), add_job(service)
    with service.database.session() as session:
        for n in range(25):
            tell(session, id, Told(str(n), f"event {n}"))
            tell(session, other, Told(str(n), "not ours"))
    seen, after = [], None
    while page := jobs.events(id, limit=10, after=after).items:
        seen += [event.message for event in page]
        after = page[-1].id
    assert seen == [f"event {n}" for n in reversed(range(25))]
    forwards = jobs.events_since(id, None, limit=20)
    assert [e.message for e in forwards] == [f"event {n}" for n in range(20)]
    rest = jobs.events_since(id, forwards[-1].id, limit=20)
    assert [e.message for e in rest] == [f"event {n}" for n in range(20, 25)]
    assert all(a.id != b.id for a, b in pairwise((*forwards, *rest)))
    with pytest.raises(InvalidRequest):
        jobs.events(id, after=jobs.events(other).items[0].id)

"""A pool of slots: as many tasks at once as slots, each in its own, and none left behind."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tanren.errors import Interrupted
from tanren.jobs import Pool, Slot, Stop

SLOTS = tuple(Slot(name) for name in ("a", "b", "c"))


def test_as_many_at_once_as_there_are_slots_each_in_its_own() -> None:
    lock, inside, most, seen = threading.Lock(), set[str](), 0, list[str]()
    together = threading.Barrier(len(SLOTS), timeout=20)

    def task(slot: Slot, stop: Stop) -> int:
        nonlocal most
        with lock:
            assert slot.name not in inside, "one at a time in a slot"
            inside.add(slot.name)
            most = max(most, len(inside))
            seen.append(slot.name)
            number = len(seen)
        if number <= len(SLOTS):
            together.wait()  # breaks where the first three do not overlap
        with lock:
            inside.discard(slot.name)
        return number

    with Pool(SLOTS) as pool:
        futures = [pool.submit(task) for _ in range(9)]
    assert sorted(future.result() for future in futures) == list(range(1, 10))
    assert most == 3 and set(seen) == {"a", "b", "c"}


def test_a_task_that_fails_gives_its_slot_back_and_stops_nobody() -> None:
    def bad(slot: Slot, stop: Stop) -> None:
        raise ValueError("no")

    with Pool(SLOTS[:1]) as pool:
        failed, worked = pool.submit(bad), pool.submit(lambda slot, stop: stop.is_set())
        with pytest.raises(ValueError, match="no"):
            failed.result()
        assert worked.result() is False


def test_an_error_stops_all_and_waits_for_their_ends() -> None:
    ended: list[str] = []
    begun = threading.Barrier(3, timeout=20)

    def task(slot: Slot, stop: Stop) -> None:
        begun.wait()
        assert stop.wait(20)
        time.sleep(0.1)
        ended.append(slot.name)

    with pytest.raises(RuntimeError, match="ours"), Pool(SLOTS[:2]) as pool:
        for _ in range(2):
            pool.submit(task)
        late = pool.submit(task)
        begun.wait()
        raise RuntimeError("ours")
    assert sorted(ended) == ["a", "b"] and pool.stopped
    with pytest.raises(Interrupted):
        late.result()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_hurries(number: signal.Signals) -> None:
    hurried: list[bool] = []
    begun = threading.Event()
    main = threading.get_ident()

    def task(slot: Slot, stop: Stop) -> None:
        begun.set()
        assert stop.wait(20) and not stop.at_once.is_set()
        # as from outside: the kernel gives it to the main thread, which is waiting
        signal.pthread_kill(main, number)
        hurried.append(stop.at_once.wait(20))

    with pytest.raises(KeyboardInterrupt), Pool(SLOTS[:1]) as pool:
        future = pool.submit(task)
        begun.wait()
        os.kill(os.getpid(), number)
        future.result(20)
    assert hurried == [True]


def test_ctrl_c_while_the_last_tasks_are_waited_for() -> None:
    """Leaving the context without an error waits; a signal then stops the tasks all the same."""
    ended: list[bool] = []

    def task(slot: Slot, stop: Stop) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        ended.append(stop.wait(20))

    with pytest.raises(KeyboardInterrupt), Pool(SLOTS[:1]) as pool:
        pool.submit(task)
    assert ended == [True]


def test_off_the_main_thread_no_handler_is_touched() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with Pool(SLOTS[:1]) as pool:
            seen.append(signal.getsignal(signal.SIGINT))
            seen.append(pool.submit(lambda slot, stop: slot.name).result())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, "a"]

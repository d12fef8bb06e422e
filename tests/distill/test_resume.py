"""Laws of stopping: nothing that has an answer is asked again, and the end is the same.

Trap T6 for data: killed and gone on equals never stopped.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from distill.distilling import settings, write_settings, write_texts
from distill.killing import finished, killed_after, outputs
from distill.teacher import REFUSED, STUBBORN, running_teacher

from tanren.rundir import RunDirectory

CONCURRENCY = 4


def config_for(tmp_path: Path, name: str, url: str, texts: int) -> Path:
    source = tmp_path / "texts"
    if not source.exists():
        write_texts(source, texts, "", STUBBORN, REFUSED)
    values = settings(url, source, concurrency=CONCURRENCY, out=str(tmp_path / name))
    return write_settings(tmp_path / f"{name}.yaml", values)


def killed_twice_equals_never_stopped(tmp_path: Path, texts: int, delay: float) -> None:
    with running_teacher(delay=delay) as server:
        whole = config_for(tmp_path, "whole", server.url, texts)
        finished(whole, tmp_path / "home-1")
        undisturbed = len(server.bodies)
        server.bodies.clear()
        stopped = config_for(tmp_path, "stopped", server.url, texts)
        draw = random.Random()
        first, second = sorted(draw.sample(range(2, undisturbed * 3 // 4), 2))
        for count in (first, max(2, second - first)):
            code = killed_after(stopped, tmp_path / "home-2", server, count)
            assert code == -signal.SIGKILL, "it had ended before"
            assert not (tmp_path / "stopped" / "train.jsonl").exists()
        finished(stopped, tmp_path / "home-2")
        asked = len(server.bodies)
    assert outputs(tmp_path / "stopped") == outputs(tmp_path / "whole")
    assert undisturbed <= asked <= undisturbed + 2 * CONCURRENCY, (first, second)
    assert most_of_one(server.bodies) <= 3, "each of them asked again for each kill at most"
    assert not list((tmp_path / "stopped").glob(".*.tmp"))


def most_of_one(bodies: list[dict[str, object]]) -> int:
    return max(Counter(str(body["messages"]) for body in bodies).values())


def test_killed_twice_equals_never_stopped(tmp_path: Path) -> None:
    killed_twice_equals_never_stopped(tmp_path, 40, delay=0.02)


@pytest.mark.slow
def test_two_hundred_texts_killed_twice(tmp_path: Path) -> None:
    killed_twice_equals_never_stopped(tmp_path, 200, delay=0.02)


def test_ctrl_c_says_how_to_go_on_and_keeps_everything(tmp_path: Path) -> None:
    with running_teacher(delay=0.03) as server:
        config = config_for(tmp_path, "out", server.url, 12)
        code = killed_after(config, tmp_path / "home", server, 6, signal.SIGINT)
        assert code == 130
        assert RunDirectory(tmp_path / "out").owner() is None
        before = len(server.bodies)
        finished(config, tmp_path / "home")
        again = Counter(str(b["messages"]) for b in server.bodies)
    assert before < len(server.bodies)
    assert sum(count - 1 for count in again.values()) <= CONCURRENCY

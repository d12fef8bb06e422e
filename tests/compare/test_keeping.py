"""What may be kept from before, and what must not: nothing is trained here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from tanren.compare.arms import shared_settings, variants
from tanren.compare.conduct import Conduct
from tanren.compare.data import Checked, TrainedRun
from tanren.compare.prepare import Prepared, prepare
from tanren.compare.settings import load_comparison
from tanren.errors import ConfigError, Interrupted, RunError
from tanren.jobs import Pool, find_slots
from tanren.rundir import RunDirectory


def silent(event: str, /, **fields: Any) -> None:
    """Tells nobody."""


@pytest.fixture
def asked(tmp_path: Path, tiny_model: Callable[..., Path]) -> dict[str, Any]:
    tiny.write_rows(tmp_path / "train.jsonl", 8)
    tiny.write_rows(tmp_path / "valid.jsonl", 2, turns=2)
    base = {
        "model": {"name": str(tiny_model())},
        "data": {
            "train": str(tmp_path / "train.jsonl"),
            "validation": str(tmp_path / "valid.jsonl"),
        },
        "method": {"name": "lora", "rank": 4},
        "training": {"batch_size": 2, "num_epochs": 1},
    }
    return {"base": base, "grid": {"method.rank": [2, 4]}}


def prepared(values: dict[str, Any], out: Path | None = None, **changes: Any) -> Prepared:
    return prepare(load_comparison({**values, **changes}), {}, out, "named", silent)


def key(found: Prepared) -> str:
    arm = found.plan.arms[0]
    return found.folder.run(arm.name, arm.config(rate=1e-3, seed=1), arm.hashes).path.name


def test_another_template_is_another_run(asked: dict[str, Any], tmp_path: Path) -> None:
    """T1, T18: the settings name the same file, but it says something else now."""
    template = tmp_path / "template.jinja"
    asked["base"]["model"]["chat_template"] = str(template)
    template.write_text(tiny.CHATML, encoding="utf-8")
    before = key(prepared(asked, tmp_path / "a"))
    again = key(prepared(asked, tmp_path / "b"))
    template.write_text("Hello.\n" + tiny.CHATML, encoding="utf-8")
    assert before == again != key(prepared(asked, tmp_path / "c"))


def test_parts_of_different_files_lie_apart(asked: dict[str, Any], tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "other.jsonl", 9)
    arms = {
        "one": {"data.rows": 4},
        "two": {"data.rows": 4, "data.train": str(tmp_path / "other.jsonl")},
    }
    found = prepared({"base": asked["base"], "arms": arms}, tmp_path / "out")
    files = {arm.base_config.data.train for arm in found.plan.arms}
    assert len(files) == 2
    assert len({arm.hashes["train"] for arm in found.plan.arms}) == 2


def test_rows_and_a_length_of_their_own_are_refused(asked: dict[str, Any]) -> None:
    """All sizes make as many steps: an arm's own number of epochs would be without effect."""
    grid = {"data.rows": [2, 4], "training.num_epochs": [1, 3]}
    config = load_comparison({"base": asked["base"], "grid": grid})
    with pytest.raises(ConfigError, match="as many steps as all others"):
        variants(config, shared_settings(config, {}))
    apart = load_comparison({"base": asked["base"], "grid": grid, "equal": "epochs"})
    assert len(variants(apart, shared_settings(apart, {}))) == 4


def test_another_question_does_not_overwrite_a_report(asked: dict[str, Any]) -> None:
    first = prepared(asked)
    more_seeds = prepared(asked, seeds=5, search={"trials": 0})
    other = prepared(asked, grid={"method.rank": [2, 8]})
    assert first.folder.path == more_seeds.folder.path
    assert other.folder.path.name == f"{first.folder.path.name}-2"
    assert prepared(asked, grid={"method.rank": [2, 8]}).folder.path == other.folder.path


# --- carrying out ---------------------------------------------------------------------------------


@pytest.fixture
def conduct(asked: dict[str, Any], tmp_path: Path) -> Iterator[Conduct]:
    found = prepared(
        asked, tmp_path / "out", evaluations=2, halving={"eta": 2, "min_steps": 1},
        grid={"method.rank": [1, 2, 3, 4]},
    )  # fmt: skip
    with Pool(find_slots(1)) as pool:
        yield Conduct(found.plan, found.folder, pool, silent)


def test_arms_are_ranked_where_all_are_evaluated(conduct: Conduct) -> None:
    """A rung before the first evaluation would find no loss and end every arm."""
    arms = conduct.plan.arms
    assert {arm.base_config.evaluation.every for arm in arms} == {2}
    assert conduct._rungs(arms, 4) == [2]


def test_what_went_wrong_is_told_and_not_that_others_were_stopped(conduct: Conduct) -> None:
    waiting = threading.Event()

    def work(number: int) -> None:
        if number == 1:
            raise OSError(28, "No space left on device")
        while not conduct.pool.stopped:
            waiting.wait(0.01)
        raise Interrupted("stopped")

    with pytest.raises(OSError, match="No space left"):
        conduct._each([0, 1, 2], work)


def test_a_run_on_other_rows_than_the_gate_saw_is_put_aside(conduct: Conduct) -> None:
    """A file was changed while arms were trained: what came of it is kept under no key."""
    arm = conduct.plan.arms[0]
    config = arm.config(rate=1e-3, seed=1)
    run = conduct.folder.run(arm.name, config, arm.hashes)
    facts = {"train_sha256": arm.hashes["train"], "base": arm.hashes["model"]}
    sound = TrainedRun(arm.name, 1, str(run.path), "succeeded", facts=facts)
    conduct._require_same_data(run, sound, arm)
    assert run.config_file.is_file()
    with pytest.raises(RunError, match="other train than when the comparison began"):
        conduct._require_same_data(
            run, replace(sound, facts={**facts, "train_sha256": "0" * 64}), arm
        )
    assert not run.path.exists()
    assert isinstance(conduct.folder.run(arm.name, config, arm.hashes), RunDirectory)


class Scripted(Conduct):
    """Runs that end as they are told, without a process."""

    ends: tuple[str, ...] = ()

    def _run(self, arm: Any, config: Any, words: str, **_: Any) -> TrainedRun:
        rate = config.training.learning_rate
        order = sorted((arm.auto_rate / 3, arm.auto_rate, arm.auto_rate * 3))
        place = min(range(3), key=lambda k: abs(order[k] - rate))
        outcome: Any = self.ends[place]
        checks = (Checked(1, 100, 1.0 + place),) if outcome == "succeeded" else ()
        return TrainedRun(arm.name, 9, "run", outcome, why="by a test", checks=checks)


@pytest.mark.parametrize("outcome", ["killed", "refused", "failed"])
def test_a_trial_that_says_nothing_of_its_rate_is_no_bad_rate(
    conduct: Conduct, outcome: str
) -> None:
    """Else the search moves away from a rate whose process was only killed."""
    scripted = Scripted(conduct.plan, conduct.folder, conduct.pool, silent)
    scripted.ends = ("succeeded", outcome, "succeeded")
    rate = scripted._rate(conduct.plan.arms[0])
    assert rate.value is None and "could not be finished: by a test" in rate.stopped


def test_a_trial_that_diverges_is_a_bad_rate(conduct: Conduct) -> None:
    scripted = Scripted(conduct.plan, conduct.folder, conduct.pool, silent)
    scripted.ends = ("succeeded", "succeeded", "diverged")
    rate = scripted._rate(conduct.plan.arms[0])
    assert rate.value is not None and rate.stopped == ""
    assert {one.outcome for one in rate.tried} >= {"succeeded", "diverged"}

"""What finished runs can do: `tanren eval` for each arm, with the same settings and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tanren.compare.conduct import Trained
from tanren.compare.folder import ComparisonFolder
from tanren.compare.scores import model_name
from tanren.compare.settings import TestConfig
from tanren.errors import Interrupted
from tanren.evaluate.folder import EvaluationFolder
from tanren.evaluate.report.data import Evaluation
from tanren.jobs import Pool, Slot, Stop, command_to_end
from tanren.rundir import sha256_of, write_text

Tell = Callable[..., None]
BASE = "base"


@dataclass(frozen=True, slots=True)
class Evaluations:
    """By arm. `failed`: why an arm has none."""

    by_arm: Mapping[str, Evaluation]
    failed: Mapping[str, str]


def evaluated(
    trained: Sequence[Trained],
    reference: str,
    test: TestConfig,
    folder: ComparisonFolder,
    pool: Pool,
    tell: Tell,
) -> Evaluations:
    """Every arm with a finished run. The reference arm comes first: the base is asked there, and
    the others take its answers from there.
    """
    order = sorted((t for t in trained if t.finished), key=lambda t: t.arm.name != reference)
    if not order:
        return Evaluations({}, {})
    work = _Work(test, sha256_of(Path(test.data)), folder, pool, tell)
    first = work.start(order[0], ())
    first.wait()
    begun = first.folder.settings_file.is_file()
    others = [work.start(one, (first.folder.path,) if begun else ()) for one in order[1:]]
    for one in others:
        one.wait()
    done = [first, *others]
    return Evaluations(
        {one.arm: one.read() for one in done if one.finished},
        {one.arm: one.why for one in done if not one.finished},
    )


@dataclass
class _Started:
    arm: str
    folder: EvaluationFolder
    wait: Callable[[], None]
    why: str = ""

    @property
    def finished(self) -> bool:
        return self.folder.evaluation_file.is_file()

    def read(self) -> Evaluation:
        return Evaluation.read(self.folder.evaluation_file)


@dataclass(frozen=True, slots=True)
class _Work:
    """`rows`: SHA-256 of the test file, which stands for it: edited rows are asked again."""

    test: TestConfig
    rows: str
    folder: ComparisonFolder
    pool: Pool
    tell: Tell

    def start(self, trained: Trained, answers_from: Sequence[Path]) -> _Started:
        arm = trained.arm.name
        settings = _settings(trained, self.test, answers_from)
        path = self.folder.evaluation(arm, {**settings, "answers_from": None, "data": self.rows})
        started = _Started(arm, EvaluationFolder(path), lambda: None)
        if started.finished:
            return started
        file = path.with_name(f"{path.name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, yaml.safe_dump(settings, allow_unicode=True, sort_keys=False))
        future = self.pool.submit(lambda slot, stop: self._carry_out(started, file, slot, stop))

        def wait() -> None:
            started.why = future.result()
            if self.pool.stopped:
                raise Interrupted("the comparison was stopped; what is finished is kept")

        started.wait = wait
        return started

    def _carry_out(self, started: _Started, file: Path, slot: Slot, stop: Stop) -> str:
        path = started.folder.path
        self.tell("stage", name="evaluate", text=f"{started.arm}: answering the test rows")
        words = ["eval", "--config", str(file), "--out", str(path)]
        if started.folder.settings_file.is_file():
            words.append("--resume")
        ended = command_to_end(words, path.with_name(f"{path.name}.process"), slot, stop)
        return "" if ended.exit_code == 0 else ended.why


def _settings(trained: Trained, test: TestConfig, answers_from: Sequence[Path]) -> dict[str, Any]:
    """Of `tanren eval`."""
    runs = {model_name(trained.arm.name, run.seed): run.path for run in trained.finished}
    first = next(iter(runs.values()))
    return {
        "models": [f"{BASE}={first}@base", *(f"{name}={path}" for name, path in runs.items())],
        "reference": BASE,
        **common_settings(test),
        **({"answers_from": [str(path) for path in answers_from]} if answers_from else {}),
    }


def common_settings(test: TestConfig) -> dict[str, Any]:
    """What does not depend on the models."""
    settings: dict[str, Any] = {
        "data": test.data,
        "limit": test.limit,
        "decoding": {"max_new_tokens": test.max_new_tokens},
        "retention": {"enabled": test.retention},
        "batch_tokens": test.batch_tokens,
    }
    if test.metrics is not None:
        settings["metrics"] = [one if isinstance(one, str) else dict(one) for one in test.metrics]
    return settings

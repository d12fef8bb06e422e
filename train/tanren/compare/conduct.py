"""Carrying a plan out: trials, halving, seeds, evaluations, each in a process of its own.

One thread follows each arm: it hands runs to the pool and waits for them. What was finished before
is found by its key and only read.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tanren.compare.data import TrainedRun, Tried
from tanren.compare.folder import ComparisonFolder
from tanren.compare.halving import rungs, survivors
from tanren.compare.plan import Plan, PlannedArm
from tanren.compare.search import RateSearch
from tanren.compare.trained import read_run
from tanren.config import RunConfig
from tanren.errors import Fault, Interrupted, RunError
from tanren.jobs import Pool, Slot, Stop, run_to_end
from tanren.rundir import RunDirectory

Tell = Callable[..., None]
Found = TypeVar("Found")
RateSource = Literal["searched", "given", "auto"]

FINAL = ("out_of_memory", "diverged")
"""Failures that another start would only repeat: they are results."""
OF_THE_RATE = FINAL
"""Failures of a trial that speak of its learning rate."""
_POLL_SECONDS = 0.5
_FACTS = {"train": "train_sha256", "validation": "validation_sha256", "model": "base"}
"""Of an arm's hashes: what a run calls them."""


@dataclass(frozen=True, slots=True)
class Rate:
    """An arm's learning rate; None where every trial failed."""

    value: float | None
    source: RateSource
    tried: tuple[Tried, ...] = ()
    edge: Literal["low", "high"] | None = None
    sentence: str = ""
    stopped: str = ""
    """Why the search did not come to its end."""


@dataclass(frozen=True, slots=True)
class Trained:
    """An arm after training. `stopped`: why it has no runs of all seeds, empty where it has."""

    arm: PlannedArm
    rate: Rate
    runs: tuple[TrainedRun, ...]
    stopped: str = ""

    @property
    def finished(self) -> tuple[TrainedRun, ...]:
        return tuple(run for run in self.runs if run.succeeded)


@dataclass
class Progress:
    """Runs done and running, told as they change. Seconds are of the runs of this start alone."""

    tell: Tell
    total: int
    slots: int
    done: int = 0
    _seconds: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def began(self, words: str) -> None:
        self.tell("run", name=words, state="running", done=self.done, total=self.total)

    def ended(self, words: str, run: TrainedRun, seconds: float | None) -> None:
        """`seconds`: None where it was finished before."""
        with self._lock:
            self.done += 1
            if seconds is not None:
                self._seconds.append(seconds)
            left = self._left()
        self.tell(
            "run", name=words, state=run.outcome, loss=run.best_loss, why=run.why,
            seconds=seconds, kept=seconds is None, done=self.done, total=self.total,
            seconds_left=left,
        )  # fmt: skip

    def dropped(self, runs: int) -> None:
        """Runs that will not take place after all."""
        with self._lock:
            self.total -= runs

    def _left(self) -> float | None:
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        return round(mean * max(self.total - self.done, 0) / self.slots, 1)


class Conduct:
    """Runs of one comparison, through one pool."""

    def __init__(self, plan: Plan, folder: ComparisonFolder, pool: Pool, tell: Tell) -> None:
        self.plan = plan
        self.folder = folder
        self.pool = pool
        self.progress = Progress(tell, plan.most_runs, len(pool.slots))
        self.used: set[Path] = set()
        self._tell = tell

    def train(self) -> tuple[Trained, ...]:
        """Every arm: its rate, then all seeds at it."""
        self._await_orphans()
        rates = self._each(self.plan.arms, self._rate)
        by_name = dict(zip((arm.name for arm in self.plan.arms), rates, strict=True))
        ended = self._halved(by_name) if self.plan.config.halving else {}

        def seeds(arm: PlannedArm) -> Trained:
            return self._seeds(arm, by_name[arm.name], ended.get(arm.name, ""))

        return tuple(self._each(self.plan.arms, seeds))

    def _await_orphans(self) -> None:
        """Runs that an earlier, killed start left at work: two runs would share a device."""
        left = [run for run in self.folder.all_runs() if run.owner() is not None]
        if left:
            text = f"waiting for {len(left)} runs of an earlier start that are still at work"
            self._tell("stage", name="wait", text=text)
        for run in left:
            while run.owner() is not None:
                time.sleep(_POLL_SECONDS)

    # --- one arm ----------------------------------------------------------------------------------

    def _rate(self, arm: PlannedArm) -> Rate:
        if arm.variant.gives_rate:
            return Rate(arm.auto_rate, "given")
        rules = self.plan.config.search
        if rules.trials == 0:
            return Rate(arm.auto_rate, "auto")
        search = RateSearch(arm.auto_rate, rules.trials, rules.factor, rules.span, rules.seed or 0)
        tried: list[Tried] = []
        stopped = ""
        while not stopped and (rates := search.ask()):
            for rate, run in zip(rates, self._trials(arm, rates), strict=True):
                loss = run.best_loss if run.succeeded else None
                search.tell(rate, loss)
                tried.append(Tried(rate, loss, run.outcome, run.path, run.num_steps))
                if not run.succeeded and run.outcome not in OF_THE_RATE:
                    # it says nothing of the rate, and the search would believe that it does
                    stopped = f"its trial at {rate:g} could not be finished: {run.why}"
        self.progress.dropped(rules.trials - len(tried))
        best = None if stopped else search.best
        return Rate(best, "searched", tuple(tried), search.edge, search.sentence, stopped)

    def _trials(self, arm: PlannedArm, rates: Sequence[float]) -> list[TrainedRun]:
        share = self.plan.config.search.steps_share
        steps = max(1, round(arm.steps * share))
        seed = self.plan.config.search_seed
        return self._runs(
            arm,
            [(arm.config(rate=rate, seed=seed, steps=steps), f"{arm.name}, trial at {rate:g}")
             for rate in rates],
        )  # fmt: skip

    def _seeds(self, arm: PlannedArm, rate: Rate, ended: str) -> Trained:
        seeds = self.plan.config.seeds
        if rate.value is None:
            self.progress.dropped(len(seeds))
            why = rate.stopped or "every learning rate that was tried failed"
            return Trained(arm, rate, (), why)
        if ended:
            self.progress.dropped(len(seeds))
            return Trained(arm, rate, (), ended)
        wanted = [
            (arm.config(rate=rate.value, seed=seed), f"{arm.name}, seed {seed}") for seed in seeds
        ]
        return Trained(arm, rate, tuple(self._runs(arm, wanted)))

    # --- halving ----------------------------------------------------------------------------------

    def _halved(self, rates: Mapping[str, Rate]) -> dict[str, str]:
        """Arms that are ended early, by name: after how many steps. Judged on the first seed; who
        stays goes on with the same run.
        """
        rules = self.plan.config.halving
        assert rules is not None
        ended: dict[str, str] = {}
        staying = [arm for arm in self.plan.arms if rates[arm.name].value is not None]
        steps = min((arm.steps for arm in staying), default=0)
        for rung in self._rungs(staying, steps):
            reached = partial(self._until, rates, rung)
            names = [arm.name for arm in staying]
            losses = dict(zip(names, self._each(staying, reached), strict=True))
            if all(loss is None for loss in losses.values()):
                continue  # nobody can be ranked
            kept = survivors(losses, rules.eta, (self.plan.reference,))
            for arm in staying:
                if arm.name not in kept:
                    ended[arm.name] = f"halving ended it after {rung} of {arm.steps} steps"
            staying = [arm for arm in staying if arm.name in kept]
        return ended

    def _rungs(self, arms: Sequence[PlannedArm], steps: int) -> list[int]:
        """Steps before the end at which arms are ranked: where all of them are evaluated."""
        rules = self.plan.config.halving
        assert rules is not None
        if not arms:
            return []
        every = math.lcm(*(arm.base_config.evaluation.every or steps for arm in arms))
        wanted = rungs(steps, len(arms), rules.eta, rules.min_steps)[:-1]
        return sorted(
            {rung for rung in (-(-one // every) * every for one in wanted) if rung < steps}
        )

    def _until(self, rates: Mapping[str, Rate], step: int, arm: PlannedArm) -> float | None:
        """The lowest validation loss of the first seed's run up to a step; None where it failed."""
        rate = rates[arm.name].value
        assert rate is not None
        seed = self.plan.config.seeds[0]
        config = arm.config(rate=rate, seed=seed)
        words = f"{arm.name}, seed {seed} to step {step}"
        run = self._run(arm, config, words, until_step=step, counts=False)
        reached = [check.loss for check in run.checks if check.step <= step]
        return min(reached, default=None) if run.outcome not in FINAL else None

    # --- runs -------------------------------------------------------------------------------------

    def _runs(self, arm: PlannedArm, wanted: Iterable[tuple[RunConfig, str]]) -> list[TrainedRun]:
        """Side by side, as far as there are slots; in the order given."""
        return self._each(list(wanted), lambda one: self._run(arm, *one))

    def _run(
        self,
        arm: PlannedArm,
        config: RunConfig,
        words: str,
        *,
        until_step: int | None = None,
        counts: bool = True,
    ) -> TrainedRun:
        run = self.folder.run(arm.name, config, arm.hashes)
        self.used.add(run.path)
        seconds = None
        if not _is_over(run, arm.name, config.seed):

            def work(slot: Slot, stop: Stop) -> float:
                self.progress.began(words)
                return run_to_end(run, slot, until_step=until_step, stop=stop).seconds

            seconds = self.pool.submit(work).result()
            if self.pool.stopped:
                raise Interrupted("the comparison was stopped; what is finished is kept")
        found = read_run(run, arm.name, config.seed)
        self._require_same_data(run, found, arm)
        if counts:
            self.progress.ended(words, found, seconds)
        return found

    def _require_same_data(self, run: RunDirectory, found: TrainedRun, arm: PlannedArm) -> None:
        """The rows and the base that the gate saw are those the run was trained on. A file that was
        changed meanwhile makes another run of it, which is put aside.
        """
        changed = [
            name
            for name, fact in _FACTS.items()
            if found.facts.get(fact) is not None and found.facts[fact] != arm.hashes[name]
        ]
        if not changed:
            return
        aside = run.path.with_name(f"{run.path.name}-other-data-{time.time_ns()}")
        run.path.rename(aside)
        raise RunError.of(
            Fault(
                str(aside),
                f"other {' and '.join(changed)} than when the comparison began",
                "files that nobody changes while arms are trained",
                "start the comparison again: what was trained on the same data is kept",
            )
        )

    def _each(self, items: Sequence[Any], work: Callable[[Any], Found]) -> list[Found]:
        """A thread an item; the pool decides how many really run. What goes wrong in one of them
        stops all, in order: their runs save a checkpoint.
        """
        if not items:
            return []
        with ThreadPoolExecutor(max_workers=len(items)) as threads:
            futures = [threads.submit(work, item) for item in items]
            try:
                _wait_or_hear(futures)
                failed = [future.exception() for future in futures if future.done()]
            except BaseException:  # Ctrl-C
                self.pool.stop()
                raise
            if any(failed):
                self.pool.stop()
                wait(futures)
            _raise_cause([future.exception() for future in futures])
            return [future.result() for future in futures]


def _wait_or_hear(futures: Sequence[Future[Any]]) -> None:
    """Until all are done or one of them failed; a signal is heard within half a second."""
    while True:
        done, pending = wait(futures, _POLL_SECONDS, FIRST_EXCEPTION)
        if not pending or any(future.exception() for future in done):
            return


def _raise_cause(errors: Sequence[BaseException | None]) -> None:
    """What went wrong first of all: that others were stopped is its consequence."""
    found = [error for error in errors if error is not None]
    causes = [error for error in found if not isinstance(error, Interrupted)]
    for error in [*causes, *found]:
        raise error


def _is_over(run: RunDirectory, arm: str, seed: int) -> bool:
    """Finished, or failed in a way that another start would only repeat."""
    state = run.state()
    if state == "succeeded":
        return True
    return state == "failed" and read_run(run, arm, seed).outcome in FINAL

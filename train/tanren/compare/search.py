"""The learning-rate search of one arm: a few rates, the best one, and where the search ended.

    search = RateSearch(centre=1e-3, trials=5, factor=3, span=9, seed=4)
    while rates := search.ask():
        for rate in rates:                       # all of a round may run side by side
            search.tell(rate, validation_loss)   # None: the run failed
    search.best, search.edge, search.sentence

What is asked depends on the arguments and the results alone. Nothing is stored here: who was killed
makes the search again, tells what is known, and is asked for the rest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from tanren.errors import ConfigError, Fault

Result = tuple[float, float | None]
"""(learning rate, loss; None: the run failed)."""
Side = Literal["low", "high"]

HIGHEST = 10.0
"""The settings of a run allow no higher rate."""
BEYOND = 2
"""So many times `factor` the search may leave its span, while the best rate is the outermost."""
NEAREST = 1 / 8
"""Two rates are at least `factor ** NEAREST` apart (1.15 for 3): nearer ones differ less in loss
than two seeds do."""


class RateSearch:
    """Round 1 is centre / factor, centre and centre * factor. Then one rate a round: outwards by
    `factor` while the best rate is the lowest or the highest tried, at most to centre * span *
    factor^2 (and centre / ...); else a rate between the best one's neighbours: what a
    Tree-structured Parzen Estimator (Bergstra et al. 2011; optuna's, log scale) proposes, or the
    middle of the wider gap where that is too near to a rate that was tried. With so few results it
    mostly is (nine times of ten on noisy parabolas whose optimum lies within x30 of the centre;
    there 5 trials end within 1.26 of the optimum on average, 8 within 1.13).

    With fewer than 3 trials round 1 is the centre, then centre * factor. It may end before its
    budget does: when no rate is left that is far enough from those tried.

    ConfigError without optuna, where more is asked than round 1.
    """

    def __init__(
        self, centre: float, trials: int = 5, factor: float = 3.0, span: float = 9.0, seed: int = 0
    ) -> None:
        if not (centre > 0 and math.isfinite(centre) and trials >= 0 and factor > 1 and span > 1):
            raise ValueError(f"no search: {centre=}, {trials=}, {factor=}, {span=}")
        self.centre = centre
        self.trials = trials
        self.factor = min(factor, span)
        self.span = span
        self.seed = seed
        self._rounds: list[tuple[float, ...]] = [self._first_round()]
        self._told: dict[float, float | None] = {}
        if trials > len(self._rounds[0]):
            _optuna()  # now, not after three runs

    # --- asking and telling -----------------------------------------------------------------------

    def ask(self) -> tuple[float, ...]:
        """Rates of this round that have no result yet, lowest first; () at the end."""
        waiting = self._waiting()
        if not waiting and self._budget > 0:
            following = self._next()
            if following is not None:
                self._rounds.append((following,))
                waiting = self._waiting()
        return waiting

    def tell(self, rate: float, loss: float | None) -> None:
        """The lowest validation loss at a rate that was asked for; None, NaN or infinite: it
        failed. Telling the same twice changes nothing; ValueError for another rate or loss.
        """
        if loss is not None and not math.isfinite(loss):
            loss = None
        if rate not in self._told and rate not in self.ask():
            raise ValueError(f"nobody asked for a run at {rate}")
        if self._told.setdefault(rate, loss) != loss:
            raise ValueError(f"two results at {rate}: {self._told[rate]} and {loss}")

    # --- what was found ---------------------------------------------------------------------------

    @property
    def tried(self) -> tuple[Result, ...]:
        """Every result in the order of asking, whatever the order of telling."""
        asked = [rate for rates in self._rounds for rate in rates]
        return tuple((rate, self._told[rate]) for rate in asked if rate in self._told)

    @property
    def best(self) -> float | None:
        """The rate of the lowest loss (the lower rate of equals); None where every run failed."""
        found = [(loss, rate) for rate, loss in self.tried if loss is not None]
        return min(found)[1] if found else None

    @property
    def edge(self) -> Side | None:
        """Whether the best rate is the lowest or highest of all that were tried, failed ones
        among them: then a better one may lie beyond. None for a single rate.
        """
        rates, best = sorted(self._told), self.best
        if best is None or len(rates) < 2:
            return None
        return "low" if best == rates[0] else "high" if best == rates[-1] else None

    @property
    def sentence(self) -> str:
        """What was searched, for people."""
        if not self._told:
            return "no learning rate was tried"
        rates = sorted(self._told)
        count = f"{len(rates)} learning rate{'s' if len(rates) > 1 else ''}"
        where = f"from {rates[0]:g} to {rates[-1]:g}" if len(rates) > 1 else f"({rates[0]:g})"
        failed = sum(loss is None for loss in self._told.values())
        text = f"{count} {where} tried" + (f", {failed} failed" if failed else "")
        if self.best is None:
            return f"{text}: none can be recommended"
        text += f"; lowest loss at {self.best:g}"
        if self.edge is not None:
            outer = "lowest" if self.edge == "low" else "highest"
            text += f", the {outer} of them: a better one may lie beyond{self._why_no_further()}"
        return text

    def _why_no_further(self) -> str:
        if self.edge is not None and self._outwards(self.edge) is None:
            limit = self._limit(self.edge)
            return f" (the search goes no further than {limit:.3g})"
        return f" (the budget of {self.trials} is used up)" if self._budget <= 0 else ""

    # --- which rate is next -----------------------------------------------------------------------

    @property
    def _budget(self) -> int:
        return self.trials - sum(len(rates) for rates in self._rounds)

    def _first_round(self) -> tuple[float, ...]:
        around = (self.centre / self.factor, self.centre, self.centre * self.factor)
        chosen = around if self.trials >= 3 else around[1 : 1 + self.trials]
        return tuple(dict.fromkeys(_rounded(rate) for rate in chosen))

    def _waiting(self) -> tuple[float, ...]:
        return tuple(rate for rate in self._rounds[-1] if rate not in self._told)

    def _next(self) -> float | None:
        # Where every run failed the rates were too high, or it is not the rate: lower ones tell.
        side: Side | None = self.edge if self.best is not None else "low"
        if side is not None:
            further = self._outwards(side)
            if further is not None or self.best is None:
                return further
        return self._between()

    def _outwards(self, side: Side) -> float | None:
        """One factor beyond the outermost rate; None past the limit."""
        rates = sorted(self._told)
        if side == "low":
            rate = _rounded(rates[0] / self.factor)
            return rate if rate >= self._limit(side) * 0.99 else None
        rate = _rounded(rates[-1] * self.factor)
        return rate if rate <= self._limit(side) * 1.01 else None

    def _limit(self, side: Side) -> float:
        reach = self.span * self.factor**BEYOND
        return self.centre / reach if side == "low" else min(self.centre * reach, HIGHEST)

    def _between(self) -> float | None:
        """A new rate between the best one's neighbours; None where they are too near already."""
        assert self.best is not None
        rates = sorted(self._told)
        place = rates.index(self.best)
        inside = rates[max(place - 1, 0) : place + 2]
        if len(inside) < 2:
            return None
        chosen = _rounded(_parzen(self._results_of(inside), self._draw()))
        if self._far_enough(chosen):
            return chosen
        gaps = sorted(pairwise(inside), key=lambda gap: gap[0] / gap[1])  # widest first
        middle = _rounded(math.sqrt(gaps[0][0] * gaps[0][1]))
        return middle if self._far_enough(middle) else None

    def _results_of(self, rates: Sequence[float]) -> list[Result]:
        return [result for result in self.tried if result[0] in rates]

    def _far_enough(self, rate: float) -> bool:
        nearest = min(abs(math.log(rate / other)) for other in self._told)
        return nearest >= NEAREST * math.log(self.factor)

    def _draw(self) -> int:
        """A seed of its own for every number of results, so that replaying draws the same."""
        digest = hashlib.sha256(f"{self.seed}:{len(self._told)}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


def _parzen(results: Sequence[Result], seed: int) -> float:
    """optuna's choice between the lowest and the highest rate of `results`."""
    optuna = _optuna()
    rates = [rate for rate, _ in results]
    space = optuna.distributions.FloatDistribution(min(rates), max(rates), log=True)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # arms are searched in several threads
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for rate, loss in results:
        state = optuna.trial.TrialState.FAIL if loss is None else None
        study.add_trial(
            optuna.trial.create_trial(
                state=state or optuna.trial.TrialState.COMPLETE,
                params={"rate": rate},
                distributions={"rate": space},
                value=loss,
            )
        )
    return float(study.ask({"rate": space}).params["rate"])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError.of(
            Fault(
                "search.trials",
                "optuna is not installed",
                "optuna, for more than 3 trials",
                'pip install "tanren[compare]"',
            )
        ) from None
    return optuna

"""The learning-rate search: near the optimum within its budget, the same when it is replayed."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest

from tanren.compare.search import RateSearch
from tanren.errors import ConfigError

Loss = Callable[[float], float | None]
CENTRE = 1e-3


def bowl(optimum: float, *, noise: float = 0.0, diverges: float = math.inf, seed: int = 0) -> Loss:
    """A parabola in log10 of the rate, as losses over rates look; None above `diverges`."""

    def loss(rate: float) -> float | None:
        if rate > diverges:
            return None
        wobble = random.Random(f"{seed}:{rate}").gauss(0, noise)
        return 1.5 + 0.2 * math.log10(rate / optimum) ** 2 + wobble

    return loss


def finished(loss: Loss, trials: int = 5, *, centre: float = CENTRE, seed: int = 4) -> RateSearch:
    search = RateSearch(centre, trials, seed=seed)
    while rates := search.ask():
        for rate in rates:
            search.tell(rate, loss(rate))
    return search


def distance(rate: float | None, optimum: float) -> float:
    """How many times too high or too low."""
    assert rate is not None
    return math.exp(abs(math.log(rate / optimum)))


OPTIMA = [CENTRE * 30 ** (i / 10) for i in range(-10, 11)]


@pytest.mark.parametrize("trials", [5, 6, 8])
@pytest.mark.parametrize("optimum", OPTIMA, ids=lambda optimum: f"{optimum:.2g}")
def test_a_few_trials_end_near_the_optimum(optimum: float, trials: int) -> None:
    assert distance(finished(bowl(optimum), trials).best, optimum) < 1.8


def test_noise_moves_it_little_and_the_centre_alone_is_far_worse() -> None:
    """Noise of 0.002 nats: about what two seeds of a small run differ by."""
    off = [
        math.log(distance(finished(bowl(optimum, noise=0.002, seed=k), 8, seed=k).best, optimum))
        for optimum in OPTIMA
        for k in range(3)
    ]
    centre = [math.log(distance(CENTRE, optimum)) for optimum in OPTIMA]
    assert max(off) < math.log(2.2)
    assert sum(off) / len(off) < 0.25 * sum(centre) / len(centre)


def test_more_trials_end_nearer() -> None:
    def mean(trials: int) -> float:
        found = [distance(finished(bowl(optimum), trials).best, optimum) for optimum in OPTIMA]
        return sum(map(math.log, found)) / len(found)

    assert mean(10) < 0.7 * mean(5)


# --- what is asked --------------------------------------------------------------------------------


def test_round_one_is_the_centre_and_its_neighbours() -> None:
    assert RateSearch(1e-3).ask() == (3.33e-4, 1e-3, 3e-3)
    assert RateSearch(1e-3, trials=2).ask() == (1e-3, 3e-3)
    assert RateSearch(1e-3, trials=1).ask() == (1e-3,)
    assert RateSearch(1e-3, trials=0).ask() == ()
    assert RateSearch(1e-3, factor=100, span=4).ask() == (2.5e-4, 1e-3, 4e-3)


@pytest.mark.parametrize("trials", [1, 2, 3, 4, 7])
def test_the_budget_is_kept(trials: int) -> None:
    search = finished(bowl(CENTRE * 1.4), trials)
    assert len(search.tried) == trials
    assert search.ask() == ()


def test_rates_have_three_digits_and_none_comes_twice() -> None:
    for optimum in OPTIMA:
        rates = [rate for rate, _ in finished(bowl(optimum, noise=0.01), 20).tried]
        assert len(set(rates)) == len(rates)
        assert all(rate == float(f"{rate:.3g}") for rate in rates)
        gaps = [high / low for low, high in pairwise(sorted(rates))]
        assert min(gaps) > 3 ** (1 / 8) * 0.999


def test_a_large_budget_ends_when_no_rate_is_left_that_tells_anything() -> None:
    search = finished(bowl(CENTRE), 64)
    assert 5 < len(search.tried) < 30
    assert distance(search.best, CENTRE) < 1.15


def test_inside_it_asks_between_the_neighbours_of_the_best() -> None:
    search = RateSearch(CENTRE, 4, seed=1)
    for rate, loss in zip(search.ask(), (1.6, 1.5, 1.7), strict=True):
        search.tell(rate, loss)
    (rate,) = search.ask()
    assert 3.33e-4 < rate < 3e-3
    assert search.edge is None


@pytest.mark.parametrize(("optimum", "side"), [(1e-9, "low"), (1e3, "high")])
def test_an_optimum_out_of_reach_is_said_to_be_so(optimum: float, side: str) -> None:
    """Outwards by the factor, past the span twice, then no further."""
    search = finished(bowl(optimum), 20)
    outermost = CENTRE * 81 if side == "high" else CENTRE / 81
    assert search.best == pytest.approx(outermost, rel=0.02)
    reached = [rate for rate, _ in search.tried]
    assert max(distance(rate, CENTRE) for rate in reached) < 82
    assert search.edge == side
    outer = "highest" if side == "high" else "lowest"
    assert f"{search.best:g}, the {outer} of them" in search.sentence
    assert f"no further than {outermost:.3g}" in search.sentence


def test_a_budget_that_ends_at_the_edge_says_so() -> None:
    search = finished(bowl(1e3), 4)
    assert (search.best, search.edge) == (9e-3, "high")
    assert "the budget of 4 is used up" in search.sentence


# --- failed runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.5, 5, 30])
@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_where_high_rates_diverge_the_best_is_below(limit: float, shift: float) -> None:
    diverges = CENTRE * limit
    search = finished(bowl(CENTRE * shift, diverges=diverges), 8)
    assert search.best is not None and search.best <= diverges
    best_there_is = min(CENTRE * shift, diverges)
    assert distance(search.best, best_there_is) < 2.2
    failed = sum(loss is None for _, loss in search.tried)
    assert (f", {failed} failed" in search.sentence) == (failed > 0)


def test_a_failed_rate_beside_the_best_is_no_edge() -> None:
    search = RateSearch(CENTRE, 4)
    for rate, loss in zip(search.ask(), (1.6, 1.5, None), strict=True):
        search.tell(rate, loss)
    assert search.edge is None
    (rate,) = search.ask()
    assert 3.33e-4 < rate < 3e-3


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -math.inf])
def test_all_failed_looks_lower_and_recommends_nothing(loss: float | None) -> None:
    search = finished(lambda rate: loss, 5)
    rates = [rate for rate, _ in search.tried]
    assert rates[3:] == [1.11e-4, 3.7e-5]
    assert (search.best, search.edge) == (None, None)
    assert all(found is None for _, found in search.tried)
    assert "5 failed: none can be recommended" in search.sentence


# --- laws of replaying ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimum", [OPTIMA[2], OPTIMA[9], OPTIMA[18]])
def test_replayed_it_asks_the_same(optimum: float) -> None:
    """However often the process was killed, and in whichever order a round's results came."""
    loss = bowl(optimum, noise=0.003, diverges=CENTRE * 20)
    whole = finished(loss, 9)
    known: list[tuple[float, float | None]] = []
    while True:
        again = RateSearch(CENTRE, 9, seed=4)
        for rate, result in known:
            again.tell(rate, result)
        assert again.tried == whole.tried[: len(known)] or len(known) < 3
        waiting = again.ask()
        assert waiting == again.ask(), "asking changes nothing"
        if not waiting:
            break
        known.append((waiting[-1], loss(waiting[-1])))
    assert again.tried == whole.tried
    assert (again.best, again.sentence) == (whole.best, whole.sentence)


def test_the_order_of_telling_within_a_round_changes_nothing() -> None:
    loss = bowl(CENTRE * 1.3)
    forth, back = RateSearch(CENTRE, 6), RateSearch(CENTRE, 6)
    for rate in forth.ask():
        forth.tell(rate, loss(rate))
    for rate in reversed(back.ask()):
        back.tell(rate, loss(rate))
    assert forth.ask() == back.ask()
    assert forth.tried == back.tried


def test_another_seed_asks_for_other_rates() -> None:
    loss = bowl(OPTIMA[4])
    assert len({finished(loss, 9, seed=seed).tried for seed in range(6)}) > 1


def test_a_result_nobody_asked_for_is_an_error() -> None:
    search = RateSearch(CENTRE, 5)
    with pytest.raises(ValueError, match="nobody asked"):
        search.tell(0.5, 1.0)
    search.tell(CENTRE, 1.0)
    search.tell(CENTRE, 1.0)
    with pytest.raises(ValueError, match="two results"):
        search.tell(CENTRE, 1.1)


def test_of_equal_losses_the_lower_rate_is_taken() -> None:
    search = RateSearch(CENTRE, 3)
    for rate in search.ask():
        search.tell(rate, 1.5)
    assert search.best == 3.33e-4


@pytest.mark.parametrize(
    "wrong", [{"centre": 0.0}, {"centre": math.nan}, {"factor": 1.0}, {"span": 1.0}, {"trials": -1}]
)
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no search"):
        RateSearch(**{"centre": CENTRE, **wrong})  # type: ignore[arg-type]


# --- optuna ---------------------------------------------------------------------------------------


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # Python's own way to say: not there
    RateSearch(CENTRE, 3)
    with pytest.raises(ConfigError, match=r'pip install "tanren\[compare\]"'):
        RateSearch(CENTRE, 4)


def test_it_prints_nothing_and_loads_optuna_only_to_search() -> None:
    code = (
        "import sys; from tanren.compare.search import RateSearch\n"
        "assert 'optuna' not in sys.modules\n"
        "s = RateSearch(1e-3, 5)\n"
        "[s.tell(r, x) for r, x in zip(s.ask(), (2, 1, 2))]\n"
        "assert s.ask()\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

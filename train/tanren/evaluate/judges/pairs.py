"""Judging pairs: which of two models answers better, asked in both orders.

Judges favour a place: the answer they read first, or last. Each pair is therefore asked twice, with
the answers exchanged; where the two judgements disagree the pair is a tie, and the disagreements
show how strong the bias is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from statistics import fmean
from typing import Any

from tanren.endpoint import Journal
from tanren.evaluate.answered import Answered
from tanren.evaluate.judges.agreement import Agreement, agreement
from tanren.evaluate.judges.ask import Judge
from tanren.evaluate.judges.prompt import JudgePrompt, texts_of
from tanren.evaluate.judges.record import Judgement, Place, Task, all_judgements
from tanren.evaluate.judges.rows import counted, ensure_judges

TIE = 0.5


@dataclass(frozen=True, slots=True)
class PositionBias:
    """`first` and `second` count the judgements that chose the answer in that place, `ties` the
    others. Of the pairs judged in both orders, `disagreements` got two different verdicts;
    `first_twice` of them chose the first place both times, `second_twice` the second.
    """

    first: int
    second: int
    ties: int
    pairs: int
    disagreements: int
    first_twice: int
    second_twice: int

    @property
    def share_first(self) -> float | None:
        """Of the judgements that chose one. Without bias 0.5, however different the models are."""
        chosen = self.first + self.second
        return self.first / chosen if chosen else None

    @property
    def p_value(self) -> float | None:
        """Of no bias: sign test, two-sided and exact, over pairs that chose one place twice."""
        total = self.first_twice + self.second_twice
        if not total:
            return None
        tail = sum(comb(total, k) for k in range(min(self.first_twice, self.second_twice) + 1))
        return min(1.0, 2 * tail / 2**total)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share_first": self.share_first, "p_value": self.p_value}


@dataclass(frozen=True, slots=True)
class PairJudging:
    """All judgements of two models' answers to the same rows. `pairs` were asked; `unpaired` rows
    have an answer of one model alone. `stopped` says why not everything was asked, by judge.
    """

    prompt: JudgePrompt
    model: str
    against: str
    judges: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    pairs: int
    unpaired: int
    stopped: Mapping[str, str]

    def verdicts(self, criterion: str, judge: str) -> dict[int, float]:
        """By row: 1 where `model` is better in both orders, 0 where `against` is, 0.5 else. Rows
        without a judgement in both orders are left out.
        """
        both = self._both_orders(criterion, judge)
        return {row: a if a == b else TIE for row, (a, b) in both.items()}

    def values(self, criterion: str) -> dict[int, float]:
        """By row: the judges' verdicts on average."""
        said: dict[int, list[float]] = {}
        for judge in self.judges:
            for row, value in self.verdicts(criterion, judge).items():
                said.setdefault(row, []).append(value)
        return {row: fmean(values) for row, values in sorted(said.items())}

    def position_bias(self, criterion: str, judge: str) -> PositionBias:
        chosen = {"first": 0, "second": 0, "tie": 0}
        for one in self._of(judge):
            chosen[_place_chosen(one.values[criterion], one.place)] += 1
        both = self._both_orders(criterion, judge).values()
        return PositionBias(
            first=chosen["first"],
            second=chosen["second"],
            ties=chosen["tie"],
            pairs=len(both),
            disagreements=sum(a != b for a, b in both),
            first_twice=sum((a, b) == (1.0, 0.0) for a, b in both),
            second_twice=sum((a, b) == (0.0, 1.0) for a, b in both),
        )

    def agreement(self, criterion: str) -> Agreement | None:
        """Among the judges' verdicts; None for one judge."""
        said = [self.verdicts(criterion, judge) for judge in self.judges]
        return agreement(said, self.prompt.scale.level)

    def as_dict(self) -> dict[str, Any]:
        """For reports: everything but the single judgements."""
        counts = counted(self.judgements, self.judges, 2 * self.pairs)
        return {
            "prompt": self.prompt.name,
            "prompt_sha256": self.prompt.sha256,
            "mode": self.prompt.mode,
            "model": self.model,
            "against": self.against,
            "pairs": self.pairs,
            "unpaired_rows": self.unpaired,
            "criteria": {c.name: self._criterion(c.name) for c in self.prompt.criteria},
            "judges": {name: asdict(one) for name, one in counts.items()},
            "stopped": dict(self.stopped),
        }

    def _criterion(self, name: str) -> dict[str, Any]:
        values = self.values(name).values()
        between = self.agreement(name)
        return {
            "wins": sum(value > TIE for value in values),
            "ties": sum(value == TIE for value in values),
            "losses": sum(value < TIE for value in values),
            "excluded": self.pairs - len(values),
            "mean": fmean(values) if values else None,
            "position_bias": {j: self.position_bias(name, j).as_dict() for j in self.judges},
            "agreement": between.as_dict() if between else None,
        }

    def _of(self, judge: str) -> list[Judgement]:
        return [one for one in self.judgements if one.judge == judge and one.status == "ok"]

    def _both_orders(self, criterion: str, judge: str) -> dict[int, tuple[float, float]]:
        """By row: what was said of `model` when its answer stood first, and second."""
        said = {(one.row, one.place): one.values[criterion] for one in self._of(judge)}
        return {
            row: (value, said[row, "second"])
            for (row, place), value in sorted(said.items())
            if place == "first" and (row, "second") in said
        }


def _place_chosen(value: float, place: Place) -> str:
    if value == TIE:
        return "tie"
    other = "second" if place == "first" else "first"
    return place if value > TIE else other


def judge_pairs(
    rows: Sequence[Answered],
    others: Sequence[Answered],
    prompt: JudgePrompt,
    judges: Sequence[Judge],
    journal: Journal,
    *,
    model: str = "tuned",
    against: str = "base",
) -> PairJudging:
    """Every judge's verdict on every pair of answers, matched by `row`. `journal` as `judge_rows`.

    Raises ConfigError as `ensure_judges` does.
    """
    ensure_judges(judges, prompt, pairwise=True)
    answered = {row.row: row for row in rows if row.error is None}
    opposite = {row.row: row for row in others if row.error is None}
    both = [number for number in answered if number in opposite]
    tasks = [
        _task(answered[number], opposite[number], prompt, place, model, against)
        for number in both
        for place in _PLACES
    ]
    judgements, stopped = all_judgements(tasks, prompt, judges, journal)
    return PairJudging(
        prompt=prompt,
        model=model,
        against=against,
        judges=tuple(judge.name for judge in judges),
        judgements=tuple(judgements),
        pairs=len(both),
        unpaired=len({row.row for row in (*rows, *others)}) - len(both),
        stopped=stopped,
    )


_PLACES: tuple[Place, Place] = ("first", "second")


def _task(
    row: Answered, other: Answered, prompt: JudgePrompt, place: Place, model: str, against: str
) -> Task:
    answers = (row.answer, other.answer) if place == "first" else (other.answer, row.answer)
    texts = texts_of(row) | {"answer": answers[0], "answer_b": answers[1]}
    return Task(row.row, model, tuple(prompt.messages(texts)), place, against)

"""What people said, as numbers: means, how far people agree, how far judges agree with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from tanren.evaluate.judges.agreement import Agreement, agreement
from tanren.evaluate.judges.pairs import PairJudging
from tanren.evaluate.judges.rows import Judging
from tanren.evaluate.judges.scale import SCALES, Mode

Unit = tuple[int, str]
"""What was rated: a row and the model that answered (of pairs: the first of the two)."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One mark. Of a pair, `value` is 1 where `model` was preferred, 0 where `against` was, 0.5 for
    a tie, wherever the answers stood.
    """

    rater: str
    row: int
    model: str
    criterion: str
    value: float
    against: str = ""


@dataclass(frozen=True, slots=True)
class Comment:
    """`models` in the order in which their answers were shown."""

    rater: str
    row: int
    models: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Ratings:
    """Everything that came back. `not_rated` counts empty cells, by rater."""

    sheet: str
    mode: Mode
    criteria: tuple[str, ...]
    model: str
    against: str
    raters: tuple[str, ...]
    ratings: tuple[Rating, ...]
    not_rated: Mapping[str, int]
    comments: tuple[Comment, ...]
    notes: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rating.model for rating in self.ratings))

    def by_rater(self, criterion: str, rater: str) -> dict[Unit, float]:
        return {
            (one.row, one.model): one.value
            for one in self.ratings
            if one.criterion == criterion and one.rater == rater
        }

    def values(self, criterion: str, model: str) -> dict[int, float]:
        """By row: what people said on average of a model's answer. Rows nobody rated are left
        out.
        """
        said: dict[int, list[float]] = {}
        for one in self.ratings:
            if one.criterion == criterion and one.model == model:
                said.setdefault(one.row, []).append(one.value)
        return {row: fmean(values) for row, values in sorted(said.items())}

    def mean(self, criterion: str, model: str) -> float | None:
        """Over rows, each of the same weight; None where nobody rated one."""
        values = self.values(criterion, model)
        return fmean(values.values()) if values else None

    def agreement(self, criterion: str) -> Agreement | None:
        """Among people; None for one."""
        said = [self.by_rater(criterion, rater) for rater in self.raters]
        return agreement(said, SCALES[self.mode].level)

    def consensus(self, criterion: str) -> dict[Unit, float]:
        """One value for everything rated: the majority of yes and no (an even split is left out),
        the median of others.
        """
        said: dict[Unit, list[float]] = {}
        for one in self.ratings:
            if one.criterion == criterion:
                said.setdefault((one.row, one.model), []).append(one.value)
        middles = {unit: median(values) for unit, values in said.items()}
        if self.mode == "rubric":
            return {unit: value for unit, value in middles.items() if value in (0.0, 1.0)}
        return middles

    def agreement_with(
        self, judgings: Iterable[Judging | PairJudging]
    ) -> dict[str, dict[str, Agreement]]:
        """By criterion and judge: how far each judge agrees with people's consensus. Criteria of
        another name or scale cannot be compared and are left out.
        """
        found: dict[str, dict[str, Agreement]] = {}
        same_scale = [one for one in judgings if one.prompt.mode == self.mode]
        for criterion in self.criteria:
            people = self.consensus(criterion)
            for judge, said in _said_by_judge(same_scale, criterion, self.model).items():
                both = agreement([people, said], SCALES[self.mode].level)
                if both is not None and both.units:
                    found.setdefault(criterion, {})[judge] = both
        return found

    def as_dict(self, judgings: Iterable[Judging | PairJudging] = ()) -> dict[str, Any]:
        """For reports."""
        with_judges = self.agreement_with(judgings)
        return {
            "sheet": self.sheet,
            "mode": self.mode,
            "against": self.against or None,
            "raters": list(self.raters),
            "ratings": len(self.ratings),
            "not_rated": dict(self.not_rated),
            "criteria": {name: self._criterion(name, with_judges) for name in self.criteria},
            "comments": [asdict(comment) for comment in self.comments],
            "notes": list(self.notes),
        }

    def _criterion(self, name: str, with_judges: Mapping[str, Mapping[str, Agreement]]) -> Any:
        between = self.agreement(name)
        return {
            "means": {model: self.mean(name, model) for model in self.models},
            "rows": {model: len(self.values(name, model)) for model in self.models},
            "agreement": between.as_dict() if between else None,
            "agreement_with_judges": {
                judge: one.as_dict() for judge, one in with_judges.get(name, {}).items()
            },
        }


def _said_by_judge(
    judgings: Iterable[Judging | PairJudging], criterion: str, model: str
) -> dict[str, dict[Unit, float]]:
    """What each judge said of every model, as people's ratings name it: of pairs, seen from
    `model`.
    """
    said: dict[str, dict[Unit, float]] = {}
    for one in judgings:
        if criterion not in [each.name for each in one.prompt.criteria]:
            continue
        for judge in one.judges:
            if isinstance(one, PairJudging):
                turned = one.model != model
                values = one.verdicts(criterion, judge)
                seen = {r: 1.0 - v if turned else v for r, v in values.items()}
                units = {(row, model): value for row, value in seen.items()}
            else:
                units = {(r, one.model): v for r, v in one.values(criterion, judge).items()}
            said.setdefault(judge, {}).update(units)
    return said

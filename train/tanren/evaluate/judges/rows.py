"""Judging single answers: one model's rows, any number of judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from tanren.endpoint import Journal
from tanren.errors import ConfigError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.judges.agreement import Agreement, agreement
from tanren.evaluate.judges.ask import Judge
from tanren.evaluate.judges.prompt import JudgePrompt, texts_of
from tanren.evaluate.judges.record import Judgement, Task, all_judgements


@dataclass(frozen=True, slots=True)
class JudgeCounts:
    """What became of one judge's questions. `not_asked`: it was stopped before."""

    ok: int
    unparsable: int
    failed: int
    not_asked: int


@dataclass(frozen=True, slots=True)
class Judging:
    """All judgements of one model's answers. `no_answer`: rows in which there was nothing to judge.
    `stopped` says why not everything was asked, by judge.
    """

    prompt: JudgePrompt
    model: str
    judges: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    asked_rows: int
    no_answer: int
    stopped: Mapping[str, str]

    def values(self, criterion: str, judge: str | None = None) -> dict[int, float]:
        """By row: what the judges said on average, or what one of them said. Rows that nobody could
        judge are left out.
        """
        said: dict[int, list[float]] = {}
        for one in self.judgements:
            if one.status == "ok" and judge in (None, one.judge):
                said.setdefault(one.row, []).append(one.values[criterion])
        return {row: fmean(values) for row, values in sorted(said.items())}

    def mean(self, criterion: str, judge: str | None = None) -> float | None:
        """Over rows, each of the same weight; None where no row was judged."""
        values = self.values(criterion, judge)
        return fmean(values.values()) if values else None

    def agreement(self, criterion: str) -> Agreement | None:
        """Among the judges; None for one judge."""
        said = [self.values(criterion, judge) for judge in self.judges]
        return agreement(said, self.prompt.scale.level)

    def counts(self) -> dict[str, JudgeCounts]:
        return counted(self.judgements, self.judges, self.asked_rows)

    def as_dict(self) -> dict[str, Any]:
        """For reports: everything but the single judgements."""
        return {
            "prompt": self.prompt.name,
            "prompt_sha256": self.prompt.sha256,
            "mode": self.prompt.mode,
            "unit": self.prompt.scale.unit,
            "model": self.model,
            "rows": self.asked_rows,
            "rows_without_answer": self.no_answer,
            "criteria": {c.name: self._criterion(c.name) for c in self.prompt.criteria},
            "judges": {name: asdict(counts) for name, counts in self.counts().items()},
            "stopped": dict(self.stopped),
        }

    def _criterion(self, name: str) -> dict[str, Any]:
        between = self.agreement(name)
        return {
            "mean": self.mean(name),
            "rows": len(self.values(name)),
            "by_judge": {judge: self.mean(name, judge) for judge in self.judges},
            "agreement": between.as_dict() if between else None,
        }


def counted(
    judgements: Sequence[Judgement], judges: Sequence[str], questions: int
) -> dict[str, JudgeCounts]:
    """By judge, of so many `questions` that each was to be asked."""
    found = Counter((one.judge, one.status) for one in judgements)
    result = {}
    for judge in judges:
        ok, unparsable, failed = (found[judge, s] for s in ("ok", "unparsable", "failed"))
        result[judge] = JudgeCounts(ok, unparsable, failed, questions - ok - unparsable - failed)
    return result


def ensure_judges(judges: Sequence[Judge], prompt: JudgePrompt, *, pairwise: bool) -> None:
    """ConfigError unless there are judges of different names and the prompt's mode fits."""
    names = [judge.name for judge in judges]
    faults = [
        Fault("judges", f"{name!r} more than once", "names that differ", "give one another name")
        for name, times in Counter(names).items()
        if times > 1
    ]
    if not names:
        faults.append(Fault("judges", "none", "at least one judge", "name one"))
    if (prompt.mode == "pairwise") != pairwise:
        wanted = "pairwise" if pairwise else "score, likert or rubric"
        remedy = (
            "choose another prompt, or judge single answers"
            if pairwise
            else ("choose another prompt, or compare two models")
        )
        faults.append(Fault("judge prompt", f"mode {prompt.mode}", f"mode {wanted}", remedy))
    if faults:
        raise ConfigError.of(*faults)


def judge_rows(
    rows: Sequence[Answered],
    prompt: JudgePrompt,
    judges: Sequence[Judge],
    journal: Journal,
    *,
    model: str = "model",
) -> Judging:
    """Every judge's judgement of every row's answer. `journal`: `judgements.jsonl`, in which
    earlier judgements lie and new ones are written as they arrive.

    Rows with an `error` hold nothing to judge. Raises ConfigError as `ensure_judges` does.
    """
    ensure_judges(judges, prompt, pairwise=False)
    tasks = [
        Task(row.row, model, tuple(prompt.messages(texts_of(row))))
        for row in rows
        if row.error is None
    ]
    judgements, stopped = all_judgements(tasks, prompt, judges, journal)
    return Judging(
        prompt=prompt,
        model=model,
        judges=tuple(judge.name for judge in judges),
        judgements=tuple(judgements),
        asked_rows=len(tasks),
        no_answer=len(rows) - len(tasks),
        stopped=stopped,
    )

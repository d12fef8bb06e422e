"""One judgement as it lies in `judgements.jsonl`, and which ones are there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tanren.endpoint import Failure, Journal
from tanren.evaluate.judges.ask import Judge, Said
from tanren.evaluate.judges.prompt import JudgePrompt
from tanren.evaluate.judges.reading import Unparsable, read_verdict

Status = Literal["ok", "unparsable", "failed"]
Place = Literal["", "first", "second"]


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to ask: about which row of which model. `place`: where that model's answer stands
    in a pair; `against` is then the other model.
    """

    row: int
    model: str
    messages: tuple[Mapping[str, str], ...]
    place: Place = ""
    against: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`values` are empty unless `status` is ok. In a pair they say how `model` did, wherever its
    answer stood: 1 it is better, 0.5 a tie. `words` say what went wrong; `reply` is what the judge
    wrote.
    """

    key: str
    judge: str
    prompt: str
    row: int
    model: str
    status: Status
    against: str = ""
    place: Place = ""
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    words: str = ""
    reply: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def task_key(judge: Judge, prompt: JudgePrompt, task: Task) -> str:
    """sha256 (hex) over all that a judgement depends on: who is asked what, and how it is read."""
    parts = [judge.identity, prompt.sha256, [dict(message) for message in task.messages]]
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def judgement(judge: Judge, prompt: JudgePrompt, task: Task, said: Said | Failure) -> Judgement:
    """What a reply says of a task."""
    status: Status = "failed"
    values: dict[str, float] = {}
    reason = reply = words = ""
    if isinstance(said, Failure):
        words = said.words
    else:
        reply = said.text
        try:
            verdict = read_verdict(reply, prompt)
        except Unparsable as error:
            status = "unparsable"
            words = f"{error}{' (the reply was cut at its most tokens)' if said.cut else ''}"
        else:
            status, reason = "ok", verdict.reason
            values = {name: _seen_from(task.place, v) for name, v in verdict.values.items()}
    return Judgement(
        key=task_key(judge, prompt, task),
        judge=judge.name,
        prompt=prompt.name,
        row=task.row,
        model=task.model,
        status=status,
        against=task.against,
        place=task.place,
        values=values,
        reason=reason,
        words=words,
        reply=reply,
    )


def _seen_from(place: Place, value: float) -> float:
    return 1.0 - value if place == "second" else value


def read_judgements(records: Iterable[Mapping[str, Any]]) -> list[Judgement]:
    """Judgements of a journal in which nothing else lies."""
    return [Judgement(**record) for record in records]


def all_judgements(
    tasks: Sequence[Task], prompt: JudgePrompt, judges: Iterable[Judge], journal: Journal
) -> tuple[list[Judgement], dict[str, str]]:
    """What every judge said of the tasks, and why those stopped early that did, by judge."""
    judgements: list[Judgement] = []
    stopped: dict[str, str] = {}
    for judge in judges:
        done, why = judge_tasks(tasks, prompt, judge, journal)
        judgements += done
        if why:
            stopped[judge.name] = why
    return judgements, stopped


def judge_tasks(
    tasks: Iterable[Task], prompt: JudgePrompt, judge: Judge, journal: Journal
) -> tuple[list[Judgement], str | None]:
    """One judgement for every task that was asked, in no order, and why not all were (None: all
    were). What the journal holds is not asked again, unless it failed; equal tasks are asked once.
    """
    earlier = read_judgements(journal.records)
    known = {one.key: one for one in earlier if one.status != "failed"}
    written = {_place_of(one) for one in earlier}
    done: list[Judgement] = []
    pending: dict[str, list[Task]] = {}

    def keep(task: Task, said: Said | Failure) -> None:
        one = judgement(judge, prompt, task, said)
        done.append(one)
        if _place_of(one) not in written:
            written.add(_place_of(one))
            journal.append(one.as_dict())

    for task in tasks:
        key = task_key(judge, prompt, task)
        if key in known:
            keep(task, Said(known[key].reply))
        else:
            pending.setdefault(key, []).append(task)
    groups = list(pending.values())

    def on_reply(position: int, said: Said | Failure) -> None:
        for task in groups[position]:
            keep(task, said)

    stopped = judge.ask([group[0].messages for group in groups], on_reply) if groups else None
    return done, stopped


def _place_of(one: Judgement) -> tuple[str, int, str, str, Place, Status]:
    return one.key, one.row, one.model, one.against, one.place, one.status

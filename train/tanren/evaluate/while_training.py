"""Metrics of a model's answers while it is being trained.

The same rows, prompts and greedy decoding at every evaluation, so that their values can be
compared from step to step. Training sees nothing of it: answering borrows the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from transformers import PreTrainedTokenizerFast

from tanren.batches import share
from tanren.config import RunConfig
from tanren.errors import ConfigError, Fault, TanrenError, UserError
from tanren.evaluate.answered import Answered
from tanren.evaluate.answering import split_reasoning
from tanren.evaluate.metrics import Metric, fitted, metric_named
from tanren.evaluate.questions import Question, Questions, read_questions, spread
from tanren.generate import Answer, Decoding, answer_all
from tanren.template import ChatRenderer


@dataclass(frozen=True)
class Measured:
    """One evaluation's answers. `rows` are those of all processes, in the order of the questions;
    `seconds` is what it took.
    """

    values: dict[str, float | None]
    rows: tuple[Answered, ...]
    seconds: float

    def samples(self, count: int) -> list[dict[str, Any]]:
        """At most `count` answers, evenly spread, for people to read."""
        count = min(count, len(self.rows))
        chosen = [self.rows[i * len(self.rows) // count] for i in range(count)]
        return [
            {
                "row": row.row,
                "prompt": row.question,
                "reference": row.reference,
                "answer": row.answer,
                "stopped": row.finish_reason == "stop",
            }
            for row in chosen
        ]


class AnswerMetrics:
    """What is asked at every evaluation, and what is measured of the answers."""

    def __init__(
        self,
        config: RunConfig,
        tokenizer: PreTrainedTokenizerFast,
        renderer: ChatRenderer,
        context: int,
    ) -> None:
        """`context`: the model's, in tokens. Raises ConfigError where a library is missing, where
        no row can be asked, and for metrics that say nothing even of the right answers.
        """
        assert config.data.validation is not None, "the settings ask for it"
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._decoding = Decoding(max_new_tokens=config.evaluation.sample_tokens)
        found = read_questions(Path(config.data.validation))
        fitting = [q for q in found.rows if self._prompt_tokens(q) < context]
        self.questions = spread(fitting, config.evaluation.metric_rows)
        if not self.questions:
            raise ConfigError.of(_nothing_to_ask(found, context))
        perfect = [self._right_answer(question) for question in self.questions]
        self.metrics = _chosen(config.evaluation.metrics, perfect)
        self.notes = self._notes(found, len(fitting), perfect)

    def _prompt_tokens(self, question: Question) -> float:
        """Infinite where the template refuses the prompt."""
        try:
            return len(self._renderer.prompt_ids(question.messages, question.tools))
        except UserError:
            return float("inf")

    def _right_answer(self, question: Question) -> Answered:
        """The row as if the model had said the reference."""
        tokens = len(self._tokenizer(question.reference, add_special_tokens=False)["input_ids"])
        return replace(
            question.unanswered(),
            answer=question.reference,
            answer_tokens=tokens,
            finish_reason="stop",
            error=None,
        )

    def _notes(
        self, found: Questions, fitting: int, perfect: Sequence[Answered]
    ) -> tuple[str, ...]:
        """How much is asked, and every row that is not or cannot be answered in full."""
        names = ", ".join(metric.name for metric in self.metrics)
        limit = self._decoding.max_new_tokens
        asked = f"{len(self.questions):,} of {found.file_rows:,} validation rows"
        notes = [f"every evaluation answers {asked}, {limit:,} tokens at most, for {names}"]
        unused = dict(found.left_out)
        if fitting < found.usable:
            unused["the prompt leaves no room in the context"] = found.usable - fitting
        for reason, count in unused.items():
            notes.append(f"never answered while training, {count:,} validation rows: {reason}")
        longer = sum((row.answer_tokens or 0) >= limit for row in perfect)
        if longer:
            notes.append(
                f"{longer:,} of the {len(perfect):,} references do not fit into "
                f"evaluation.sample_tokens={limit}: answers that are as long will be cut"
            )
        return tuple(notes)

    def measure(self, model: nn.Module, *, processes: int = 1, process: int = 0) -> Measured:
        """Answers of the model as it is now. With several processes each answers its share, and
        all of them get all rows, so that all decide alike.

        When one process fails all of them raise its error: nobody waits for it.
        """
        began = time.monotonic()
        mine = range(len(self.questions))
        if processes == 1:
            rows = self._answers(model, mine)
        else:
            lengths = [int(self._prompt_tokens(question)) for question in self.questions]
            rows = _together(lambda: self._answers(model, share(lengths, processes, process)))
        ordered = tuple(rows[place] for place in mine)
        values = {metric.name: metric.value(ordered) for metric in self.metrics}
        return Measured(values, ordered, time.monotonic() - began)

    def _answers(self, model: nn.Module, places: Sequence[int]) -> dict[int, Answered]:
        asked = [self.questions[place] for place in places]
        if not asked:
            return {}
        answers = answer_all(
            model,
            self._tokenizer,
            self._renderer,
            [question.messages for question in asked],
            self._decoding,
            tools=[question.tools for question in asked],
        )
        rows = map(self._row, asked, answers)
        return dict(zip(places, rows, strict=True))

    def _row(self, question: Question, answer: Answer) -> Answered:
        opened = self._renderer.facts.thinking == "always"
        reasoning, said = split_reasoning(answer.text, opened=opened)
        return replace(
            question.unanswered(),
            answer=said,
            reasoning=reasoning,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            answer_tokens=len(answer.token_ids),
            seconds=answer.seconds,
            error=None,
        )


def _together(answers: Callable[[], dict[int, Answered]]) -> dict[int, Answered]:
    """The rows of all processes; the first failure among them is raised in every one."""
    said: dict[int, Answered] | None = None
    failure: tuple[type[TanrenError], str, tuple[Fault, ...]] | None = None
    try:
        said = answers()
    except TanrenError as error:
        failure = type(error), error.message, tuple(error.faults)
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (said, failure))
    for _, failed in everyone:
        if failed is not None:
            kind, message, faults = failed
            raise kind(message, faults)
    return {place: row for rows, _ in everyone for place, row in rows.items()}


def _chosen(names: Sequence[str], perfect: Sequence[Answered]) -> tuple[Metric, ...]:
    """The metrics, each tried on the right answers, so that a missing library or a metric that
    does not suit the data shows before training. All faults at once.
    """
    chosen: list[Metric] = []
    faults: list[Fault] = []
    for name in names:
        try:
            metric = fitted(metric_named(name), perfect)
            if metric.value(perfect) is None:
                faults.append(_says_nothing(name, len(perfect)))
        except ConfigError as error:
            faults += error.faults
            continue
        chosen.append(metric)
    if faults:
        raise ConfigError.of(*faults)
    return tuple(chosen)


def _says_nothing(name: str, rows: int) -> Fault:
    return Fault(
        "evaluation.metrics",
        f"{name}, which says nothing of the {rows:,} validation rows, not even answered right",
        "metrics that suit the references",
        f"leave out {name}",
    )


def _nothing_to_ask(found: Questions, context: int) -> Fault:
    return Fault(
        "evaluation.metrics",
        f"no row of {found.file} whose prompt leaves room in the model's {context:,} tokens",
        "at least one question to answer",
        "shorten the rows, or leave evaluation.metrics empty",
    )

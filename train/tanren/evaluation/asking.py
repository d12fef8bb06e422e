"""Asking every model of a request, one after the other; all answers are on disk as they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tanren.endpoint import Ledger, ReplyCache
from tanren.evaluate.answered import Answered
from tanren.evaluate.answering import (
    Answers,
    LocalModel,
    answer_at,
    answer_locally,
    measure_options,
    measure_references,
    token_ids_of,
)
from tanren.evaluate.benchmarks import Benchmarks, benchmarks_key, benchmarks_of
from tanren.evaluate.folder import EvaluationFolder
from tanren.evaluate.likelihood import answer_row, drift
from tanren.evaluate.named_models import NamedModel
from tanren.evaluate.questions import Question
from tanren.evaluate.request import (
    IDENTITY_VERSION,
    Request,
    decoding_of,
    general_decoding,
    has_base,
)
from tanren.evaluation.weights import Tell, Weights
from tanren.rundir import read_json

RETENTION = ".retention"
"""Part of the folder's rows that answers general questions."""


@dataclass
class Asking:
    """`answers` and `general` hold every model's rows by its name once it was asked; `drifts` the
    mean KL divergence from its base, where both share their weights in memory.
    """

    request: Request
    folder: EvaluationFolder
    tell: Tell
    answers: dict[str, list[Answered]] = field(default_factory=dict)
    general: dict[str, list[Answered]] = field(default_factory=dict)
    drifts: dict[str, float] = field(default_factory=dict)
    benchmarks: dict[str, Benchmarks] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ask_all(self) -> None:
        held: Weights | None = None
        for group in self._groups():
            if not group[0].is_local:
                self._ask_endpoint(group[0])
                continue
            if held is not None:
                held.release()
            held = weights = Weights(group, self.request.config, self.folder.created, self.tell)
            for model in group:
                began = time.monotonic()
                self._ask_local(model, weights)
                self.seconds[model.name] = time.monotonic() - began
        if held is not None and self.request.judges:  # one of them may need the room
            held.release()

    def _groups(self) -> list[list[NamedModel]]:
        """Models with the same weights together, in the order given; a tuned model's base is asked
        first, for drift is measured on its answers.
        """
        found: dict[str, list[NamedModel]] = {}
        for model in self.request.models:
            shared = model.is_local and has_base(model)
            found.setdefault(model.weights if shared else f"\0{model.name}", []).append(model)
        return [sorted(group, key=lambda m: not m.is_base) for group in found.values()]

    # --- models on this machine -------------------------------------------------------------------

    def _ask_local(self, model: NamedModel, weights: Weights) -> None:
        rows = self.folder.finished_rows(model.name)
        general = self.folder.finished_rows(model.name, RETENTION)
        with self.folder.journal(model.name) as journal:
            answers = Answers(journal, self._identity(model), self._known_elsewhere(model))
            if rows is None:
                rows = self._answer(model, weights, answers)
                self.folder.write_rows(model.name, rows)
            if general is None and self.request.general is not None:
                general = self._answer_general(model, weights, answers)
                self.folder.write_rows(model.name, general, RETENTION)
            if self._drifts(model):
                self._measure_drift(model, weights, answers)
            if self.request.config.lm_eval.tasks:
                self._run_benchmarks(model, weights, answers)
        if taken := answers.taken():
            text = f"{model.name}: {taken:,} answers and losses were taken from other evaluations"
            self.notes.append(f"{text} and not asked again")
        self.answers[model.name] = rows
        self.general[model.name] = general or []

    def _known_elsewhere(self, model: NamedModel) -> dict[str, dict[str, Any]]:
        """What the same model answered in other evaluations, by key. Drift is measured on a base's
        answers and stays where it was.
        """
        return {
            str(record["key"]): {**record, "taken_from": str(other.path)}
            for other in self.request.others
            if self._answered_alike(other, model)
            for record in other.known_records(model.name)
            if "drift" not in record
        }

    def _answered_alike(self, other: EvaluationFolder, model: NamedModel) -> bool:
        """Whether what keys do not say was the same there: the model's name, the day that is part
        of a plain model's prompt, and the length of general answers.
        """
        theirs, ours = read_json(other.settings_file), self.request.identity()
        if theirs["models"].get(model.name) != model.identity:
            return False
        tokens = theirs["retention_tokens"]
        if tokens is not None and tokens != ours["retention_tokens"]:
            words = f"its general answers have {tokens} tokens at most"
            self.notes.append(f"{model.name}: no answers of {other.path} are taken: {words}")
            return False
        dated = model.card is None and model.prompted_as is None
        return not dated or other.created[:10] == self.folder.created[:10]

    def _identity(self, model: NamedModel) -> str:
        """What answers depend on beside the question."""
        decoding = asdict(decoding_of(self.request.config))
        return f"{IDENTITY_VERSION} {model.identity} {decoding}"

    def _answer(self, model: NamedModel, weights: Weights, answers: Answers) -> list[Answered]:
        request, asked = self.request, self.request.asked
        local = weights.of(model)
        self.tell("stage", name="answer", text=f"{model.name} answers {len(asked):,} rows")
        decoding = decoding_of(request.config)
        rows = answer_locally(local, asked, decoding, answers, on_progress=self._progress)
        if request.config.likelihood:
            self.tell("stage", name="likelihood", text=f"{model.name}: loss of the references")
            rows = measure_references(local, asked, rows, answers)
        if request.plan.has_options:
            self.tell("stage", name="likelihood", text=f"{model.name}: loss of the options")
            rows = measure_options(local, asked, rows, answers)
        return rows

    def _answer_general(
        self, model: NamedModel, weights: Weights, answers: Answers
    ) -> list[Answered]:
        questions = self.request.general_questions
        text = f"{model.name} answers {len(questions)} general questions"
        self.tell("stage", name="retention", text=text)
        decoding = general_decoding(self.request.config)
        local = weights.of(model)
        return answer_locally(local, questions, decoding, answers, on_progress=self._progress)

    def _progress(self, done: int, total: int) -> None:
        self.tell("progress", done=done, total=total)

    # --- drift ------------------------------------------------------------------------------------

    def _drifts(self, model: NamedModel) -> bool:
        """Whether the model's own base, in the same memory, is what it is compared with."""
        reference = self.request.reference
        if self.request.general is None or reference is None or not reference.is_base:
            return False
        return not model.is_base and has_base(model) and model.weights == reference.weights

    def _measure_drift(self, model: NamedModel, weights: Weights, answers: Answers) -> None:
        """Of this model from its base, on the base's own answers to the general questions."""
        assert self.request.general is not None
        key = answers.key("drift", str(sorted(self.request.general.files.values())))
        known = answers.get(key)
        if known is None:
            self.tell("stage", name="drift", text=f"{model.name}: how far it moved from its base")
            answers.put(key, {"drift": self._drift(weights.of(model))})
            known = answers.get(key) or {}
        if known["drift"] is not None:
            self.drifts[model.name] = known["drift"]

    def _drift(self, local: LocalModel) -> float | None:
        rows = [
            answer_row(local.renderer.prompt_ids(question.messages), ids)
            for question, ids in self._base_answers()
        ]
        return drift(local.model, rows, pad_id=local.pad_id, batch_tokens=local.batch_tokens)

    def _base_answers(self) -> list[tuple[Question, list[int]]]:
        """General questions and the tokens with which the base answered them; empty answers have
        none.
        """
        request = self.request
        assert request.reference is not None
        with self.folder.journal(request.reference.name) as journal:
            answers = Answers(journal, self._identity(request.reference))
            questions = request.general_questions
            ids = token_ids_of(questions, general_decoding(request.config), answers)
        return [(question, ids[question.row]) for question in questions if ids.get(question.row)]

    # --- benchmarks -------------------------------------------------------------------------------

    def _run_benchmarks(self, model: NamedModel, weights: Weights, answers: Answers) -> None:
        config = self.request.config.lm_eval
        key = answers.key("lm-eval", benchmarks_key(config))
        if (known := answers.get(key)) is None:
            names = ", ".join(config.tasks)
            self.tell("stage", name="benchmark", text=f"{model.name}: lm-eval asks {names}")
            done = benchmarks_of(weights.of(model), config, on_progress=self._progress)
            known = {"benchmarks": done.as_dict()}
            answers.put(key, known)
        found = Benchmarks.of(known["benchmarks"])
        self.benchmarks[model.name] = found
        self.notes += [f"{model.name}: {note}" for note in found.notes]

    # --- endpoints --------------------------------------------------------------------------------

    def _ask_endpoint(self, model: NamedModel) -> None:
        """Rows that failed are asked again whenever the evaluation is gone on with."""
        assert model.endpoint is not None
        began = time.monotonic()
        self.tell("stage", name="answer", text=f"{model.name} at {model.endpoint.host} is asked")
        with (
            self.folder.journal(model.name) as journal,
            self.folder.spending(model.name) as spending,
        ):
            answers = Answers(journal, f"{IDENTITY_VERSION} {model.identity}")
            ledger = Ledger(model.endpoint.budget, model.endpoint.prices, spending)
            for part, asked in (
                ("", self.request.asked),
                (RETENTION, self.request.general_questions),
            ):
                rows = self._at_endpoint(model, asked, answers, ledger)
                self.folder.write_rows(model.name, rows, part)
                (self.general if part else self.answers)[model.name] = rows
        self.seconds[model.name] = time.monotonic() - began
        if self.request.config.lm_eval.tasks:
            self.notes.append(f"{model.name}: benchmarks are for models that run here")

    def _at_endpoint(
        self, model: NamedModel, asked: Sequence[Question], answers: Answers, ledger: Ledger
    ) -> list[Answered]:
        assert model.endpoint is not None
        rows, stopped = answer_at(
            model.endpoint, asked, answers,
            ledger=ledger, cache=ReplyCache(), on_progress=self._progress,
        )  # fmt: skip
        if stopped is not None:
            self.notes.append(f"{model.name}: not everything was asked: {stopped}")
        return rows

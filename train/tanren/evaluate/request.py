"""What is asked of whom: models, the one they are compared with, decoding, and whether the same
request was made before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tanren.errors import ConfigError, Fault
from tanren.evaluate.benchmarks import ensure_benchmarks
from tanren.evaluate.folder import EvaluationFolder, other_folders
from tanren.evaluate.measuring import Plan, make_plan
from tanren.evaluate.named_models import NamedModel, base_of, read_model, read_models
from tanren.evaluate.opinions import Judges, read_judges
from tanren.evaluate.questions import Question, Questions, read_questions, retention_questions
from tanren.evaluate.retention import RetentionSet
from tanren.evaluate.settings import NO_REFERENCE, EvaluateConfig
from tanren.generate import Decoding

IDENTITY_VERSION = 1
"""Counts up when the same request would be answered or measured differently."""


@dataclass(frozen=True)
class Request:
    """An evaluation before its first answer: everything that can be refused was read and checked.

    `asked` are the questions with their options; `general` is the retention set, None where
    retention is not measured. `others` are evaluations whose answers may be taken.
    """

    config: EvaluateConfig
    models: tuple[NamedModel, ...]
    reference: NamedModel | None
    questions: Questions
    asked: tuple[Question, ...]
    plan: Plan
    general: RetentionSet | None
    judges: Judges
    others: tuple[EvaluationFolder, ...] = ()

    @classmethod
    def read(cls, config: EvaluateConfig) -> Self:
        """Raises UserError for what is wrong with it."""
        if config.data is None:
            raise ConfigError.of(
                Fault("--data", "nothing", "a chat-format JSONL file", "add --data TEST.jsonl")
            )
        others = other_folders(config.answers_from)
        questions = read_questions(Path(config.data), limit=config.limit)
        models, reference = choose_models(config)
        general = general_set(config, models, reference)
        judges = read_judges(config.judges)
        ensure_benchmarks(config.lm_eval)
        embed = None
        if config.embedding_model is not None:
            from tanren.evaluate.embedding import text_encoder

            embed = text_encoder(config.embedding_model)
        plan, asked = make_plan(config, questions.rows, embed=embed)
        return cls(
            config, tuple(models), reference, questions, asked, plan, general, judges, others
        )  # fmt: skip

    @property
    def general_questions(self) -> tuple[Question, ...]:
        return retention_questions(self.general) if self.general is not None else ()

    def identity(self) -> dict[str, Any]:
        """What an evaluation that goes on must share with the one that began."""
        config, general = self.config, self.general
        return {
            "version": IDENTITY_VERSION,
            "models": {model.name: model.identity for model in self.models},
            "reference": self.reference.name if self.reference else None,
            "data": {"sha256": self.questions.sha256, "limit": config.limit},
            "decoding": config.decoding.model_dump(mode="json"),
            "likelihood": [config.likelihood, config.option_likelihood],
            "retention": sorted(general.files.values()) if general else None,
            "retention_tokens": config.retention.max_new_tokens if general else None,
        }


def choose_models(config: EvaluateConfig) -> tuple[list[NamedModel], NamedModel | None]:
    """The models in order and the one that others are compared with, which may be one more.

    Without a `reference`: the base among them, the base of the first tuned model, or the first.
    """
    words = list(config.models)
    if not words:
        remedy = "name a run, a model folder, a hub name or an endpoint"
        raise ConfigError.of(Fault("MODEL", "nothing", "at least one model", remedy))
    limit = config.decoding.max_new_tokens
    wanted = config.reference
    if wanted not in (None, NO_REFERENCE):
        assert wanted is not None
        known = {read_model(word, max_new_tokens=limit).name: word for word in words}
        if wanted not in known and wanted not in words:
            words.append(wanted)
        place = words.index(known.get(wanted, wanted))
        models = read_models(words, max_new_tokens=limit)
        return models, models[place]
    models = read_models(words, max_new_tokens=limit)
    if wanted == NO_REFERENCE:
        return models, None
    base = next((model for model in models if model.is_base or model.prompted_as), None)
    if base is not None and len(models) > 1:
        return models, base
    tuned = next((m for m in models if m.kind in ("run", "adapter")), None)
    if tuned is not None:
        base = base_of(tuned)
        return [base, *models], base
    return models, models[0] if len(models) > 1 else None


def has_base(model: NamedModel) -> bool:
    """Whether the base's own answers can be had from the same weights in memory."""
    return model.folder is not None and (model.folder / "adapter_config.json").is_file()


def general_set(
    config: EvaluateConfig, models: Sequence[NamedModel], reference: NamedModel | None
) -> RetentionSet | None:
    """The retention set, where retention is measured."""
    settings = config.retention
    wanted = settings.enabled is True or settings.gate_points is not None
    if wanted and reference is None:
        found, remedy = "nothing to compare with", "name a tuned model, or a --reference"
        raise ConfigError.of(Fault("retention", found, "a model before tuning", remedy))
    possible = reference is not None and all(model.is_local for model in models)
    if not wanted and not (settings.enabled == "auto" and possible):
        return None
    return RetentionSet.read(Path(settings.file) if settings.file is not None else None)


def decoding_of(config: EvaluateConfig) -> Decoding:
    given = config.decoding
    return Decoding(
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_p=given.top_p,
        repetition_penalty=given.repetition_penalty,
        seed=given.seed,
        stop=given.stop,
    )


def general_decoding(config: EvaluateConfig) -> Decoding:
    """General questions are answered greedily: their drift is that of the likeliest answers."""
    return Decoding(max_new_tokens=config.retention.max_new_tokens)

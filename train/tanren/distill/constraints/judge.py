"""A judge's score as a constraint: what an evaluation asks its judges, asked of one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tanren.config import read_yaml
from tanren.distill.constraints.base import Constraint, Measured, Problem, range_problem
from tanren.distill.rows import SourceRow
from tanren.endpoint import EndpointConfig
from tanren.endpoint.checked import checked
from tanren.errors import ConfigError, Fault
from tanren.evaluate.answered import Answered
from tanren.evaluate.judges import JudgePrompt, Unparsable, load_prompt, read_verdict
from tanren.evaluate.judges.prompt import texts_of

LOCAL_TOKENS = 512


class JudgeScore(Constraint):
    """A judge's value is at least so much, on the scale of its prompt: 0 to 100, 1 to 5, or 0 and 1
    (a rubric). Judges are asked last, about answers that hold to everything else.
    """

    file: str = Field(
        description="The judge's YAML as `tanren eval --judge` reads it, with one prompt."
    )
    at_least: float = Field(description="The least value that is accepted.")
    criterion: str | None = Field(
        None, description="One of the prompt's criteria; null: each of them."
    )

    @property
    def name(self) -> str:
        return f"judge.{Path(self.file).stem}"

    def measure(self, text: str, row: SourceRow) -> Measured:
        raise NotImplementedError("a judge is asked, see `verdict_of`")


@dataclass(frozen=True, slots=True)
class JudgeFacts:
    """A judge as its file describes it: behind an endpoint, or `local`, a model here."""

    constraint: JudgeScore
    name: str
    prompt: JudgePrompt
    endpoint: EndpointConfig | None
    local: str | None
    max_tokens: int

    def messages(self, text: str, row: SourceRow) -> list[dict[str, Any]]:
        asked = tuple(row.asked)
        reference = str(row.values.get("reference") or "")
        answered = Answered(row.position + 1, asked, reference, text, "stop")
        return [dict(message) for message in self.prompt.messages(texts_of(answered))]

    @property
    def identity(self) -> dict[str, Any]:
        """What its verdicts depend on."""
        who: Any = [self.local, self.max_tokens]
        if self.endpoint is not None:
            who = [self.endpoint.url, self.endpoint.body([])]
        return {"judge": who, "prompt": self.prompt.sha256}

    def measured(self, reply: str) -> Measured:
        """What a reply says of an answer. One that cannot be read decides nothing: the row is
        rejected with that reason, for asking again would not help.
        """
        try:
            verdict = read_verdict(reply, self.prompt)
        except Unparsable as error:
            facts = {"judge": self.name, "found": str(error)}
            return Measured(None, Problem("judge.unreadable", facts, mendable=False))
        values = self._wanted(verdict.values)
        worst = min(values, key=lambda name: values[name])
        facts = {
            "judge": self.name, "criterion": worst, "reason": verdict.reason, "unit": "points",
            "question": next(c.question for c in self.prompt.criteria if c.name == worst),
        }  # fmt: skip
        low = self.constraint.at_least
        problem = range_problem("judge", values[worst], low, None, **facts)
        return Measured(dict(values), problem)

    def _wanted(self, values: Mapping[str, float]) -> dict[str, float]:
        only = self.constraint.criterion
        return {name: value for name, value in values.items() if only in (None, name)}


def read_judge(constraint: JudgeScore, where: str) -> JudgeFacts:
    """ConfigError with what is wrong with the judge's file, or with what is asked of it."""
    path = Path(constraint.file)
    values = dict(read_yaml(path))
    prompt = _prompt(values.pop("prompt", None), path, where)
    name, local = values.pop("name", None), values.pop("local", None)
    _ensure_criterion(constraint, prompt, where)
    if local is not None:
        tokens = values.pop("max_tokens", LOCAL_TOKENS)
        if values or not isinstance(tokens, int) or tokens < 1:
            expected = "beside local: name, prompt, and max_tokens of at least 1"
            fault = Fault(str(path), ", ".join(values) or repr(tokens), expected, "remove the rest")
            raise ConfigError.of(fault)
        return JudgeFacts(constraint, str(name or local), prompt, None, str(local), tokens)
    endpoint = checked(EndpointConfig, values, source=str(path))
    endpoint.ensure_allowed(str(path))
    endpoint.api_key(str(path))
    return JudgeFacts(constraint, str(name or endpoint.model), prompt, endpoint, None, 0)


def _prompt(asked: Any, path: Path, where: str) -> JudgePrompt:
    if not isinstance(asked, str):
        remedy = "name one, such as prompt: likert.en"
        found = "no prompt" if asked is None else "several prompts"
        raise ConfigError.of(Fault(f"{where} {path}", found, "one prompt", remedy))
    near = path.parent / asked
    is_file = asked.endswith((".yaml", ".yml")) and near.is_file()
    prompt = load_prompt(near if is_file else asked)
    if prompt.mode == "pairwise":
        remedy = "choose a prompt that judges single answers"
        raise ConfigError.of(
            Fault(f"{where} {path}", "a pairwise prompt", "score, likert or rubric", remedy)
        )
    return prompt


def _ensure_criterion(constraint: JudgeScore, prompt: JudgePrompt, where: str) -> None:
    faults = []
    names = [criterion.name for criterion in prompt.criteria]
    if constraint.criterion is not None and constraint.criterion not in names:
        expected = "one of " + ", ".join(names)
        faults.append(Fault(f"{where}.criterion", repr(constraint.criterion), expected, "correct"))
    scale = prompt.scale
    if not scale.low <= constraint.at_least <= scale.high:
        expected = f"{scale.low:g} to {scale.high:g}, the scale of {prompt.name}"
        faults.append(Fault(f"{where}.at_least", f"{constraint.at_least:g}", expected, "correct"))
    if faults:
        raise ConfigError.of(*faults)

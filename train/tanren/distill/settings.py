"""What a distillation asks of whom, and what it accepts: strict, documented per field.

    source: texts/                      # a folder of .txt and .md files, or JSONL
    system: Summarise what you are given.
    user: "{{ text }}"
    teacher: {base_url: "http://127.0.0.1:8000/v1", model: big}
    constraints:
      - length: {unit: characters, target: 100, tolerance: 5}
    repairs: 4
    out: distilled/summaries

A teacher is an endpoint's settings, the path of its YAML, `{model: FOLDER or hub name}` on this
machine, or `{run: RUN}`. `tanren.distill.constraints` says what a constraint may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from tanren.config import read_yaml
from tanren.endpoint.checked import Strict, checked
from tanren.endpoint.settings import Budget, Positive
from tanren.errors import ConfigError, Fault

Kind = Literal["auto", "texts", "prompts", "chats"]


class SourceConfig(Strict):
    """What the teacher is asked about."""

    path: str = Field(
        min_length=1,
        description="A folder of texts (.txt, .md), one such file, or JSONL of prompts or chats.",
    )
    kind: Kind = Field(
        "auto",
        description="texts: files, one row each. prompts: JSONL with text, prompt, or messages "
        "that end with the user. chats: messages whose last answer is replaced. auto: as it is.",
    )
    encoding: str = Field(
        "utf-8", description="Of text files, such as cp932 or utf-16. JSONL is always UTF-8."
    )
    limit: Positive | None = Field(None, description="Take the first rows alone; null: all.")


class IdeasConfig(Strict):
    """New question/answer pairs from a few seeds."""

    count: Positive = Field(100, description="Accepted pairs to reach.")
    per_batch: Annotated[int, Field(ge=1, le=100)] = Field(
        10, description="Pairs asked for in one request."
    )
    shown: Annotated[int, Field(ge=1, le=50)] = Field(
        4, description="Seeds shown in one request, drawn by `seed`."
    )
    seed_rows: Positive | None = Field(
        None, description="Read the first rows of the seeds alone; null: all."
    )
    seed: int = Field(0, description="Of the draws of seeds.")
    patience: Positive = Field(3, description="Requests in a row without a new pair before an end.")
    near_threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8,
        description="Jaccard similarity of character 5-grams from which questions are the same.",
    )
    language: Literal["auto", "ja", "en"] = Field(
        "auto", description="Of our request; auto: Japanese where the seeds are."
    )
    topic: str = Field("", description="What the pairs should be about, added to the request.")


class LocalTeacherConfig(Strict):
    """A model or a run on this machine."""

    model: str | None = Field(None, description="Folder or hub name of a model.")
    run: str | None = Field(None, description="A run, by its folder or name.")
    max_tokens: Positive = Field(512, description="Most tokens of an answer.")
    temperature: Annotated[float, Field(ge=0, le=10)] = Field(0.0, description="0: greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="With a temperature: the smallest set of tokens with this probability."
    )
    seed: int = Field(0, description="Of answers by chance; each row and try has its own draws.")
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        16_384, description="Positions that a batch may fill; less takes less memory."
    )


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class DistillConfig(Strict):
    """One distillation."""

    source: Annotated[SourceConfig | None, BeforeValidator(_as_source)] = Field(
        None, description="A path, or a part with more; null where pairs are made from ideas."
    )
    system: str | None = Field(
        None, description="System prompt for the teacher; null: the rows' own, or none."
    )
    user: str = Field(
        "{{ text }}",
        min_length=1,
        description="Jinja template of the user's message. Placeholders: text (the file, prompt or "
        "last question), reference (the answer that is replaced), row (other keys), file.",
    )
    teacher: str | dict[str, Any] = Field(
        description="An endpoint (base_url, model, ...), the path of its YAML, {model: ...} on this"
        " machine (or its folder or hub name alone), or {run: ...}."
    )
    constraints: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = Field(
        (), description="What an answer must hold to, all of them; each {KIND: settings}."
    )
    repairs: Annotated[int, Field(ge=0, le=100)] = Field(
        3, description="How often an answer may be mended in one try."
    )
    tries: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="Fresh beginnings for a row; more than 1 needs a temperature above 0."
    )
    wording: str | dict[str, str] = Field(
        "default",
        description="Language of the words back to the teacher: default (English), ja, or a mapping"
        " of own Jinja texts.",
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="Rows at work at once; null: the teacher's own (8)."
    )
    budget: Budget = Field(
        default_factory=Budget, description="Limits over all starts into one folder."
    )
    out: str | None = Field(None, description="Folder to make.")
    keep_repair_turns: bool = Field(
        False,
        description="Keep the talk of mending in the rows, its failed answers untrained (weight 0)."
        " false: question and accepted answer alone.",
    )
    system_in_rows: str = Field(
        "same",
        min_length=1,
        description="System prompt to train with. same: the teacher's; none: none; any other text "
        "is that prompt.",
    )
    ideas: IdeasConfig = Field(default_factory=IdeasConfig, description="For --from-ideas.")


def load_distillation(path: Path, overrides: Mapping[str, Any] | None = None) -> DistillConfig:
    """Settings from YAML with `overrides` laid over it. ConfigError with every fault."""
    values = dict(read_yaml(path))
    for name, value in (overrides or {}).items():
        inner = values.get(name)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        values[name] = {**inner, **value} if both else value  # type: ignore[dict-item]
    return checked(DistillConfig, values, source=str(path))


def ensure_purpose(config: DistillConfig, source: str, *, from_ideas: bool) -> None:
    """ConfigError unless there is something to ask about and a place to write to."""
    faults = []
    if config.source is None and not from_ideas:
        remedy = "add source: FOLDER or FILE.jsonl, or give --from-ideas SEEDS.jsonl"
        faults.append(Fault(f"{source} source", "nothing", "what to ask about", remedy))
    if config.out is None:
        faults.append(Fault(f"{source} out", "nothing", "a folder to make", "give --out DIR"))
    if faults:
        raise ConfigError.of(*faults)

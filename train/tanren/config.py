"""One run's settings: strict, documented per field with unit and bounds, the same for YAML, command
line and Python.

`load(path, overrides)` reads YAML, lays `key.path=value` overrides over it and reports every wrong
key and value at once. `RunConfig.to_yaml()` is what a run directory keeps: it alone reproduces the
run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tanren.errors import ConfigError, Fault
from tanren.methods import METHODS, Lora, Method
from tanren.verdict import ANSWER_METRICS, HIGHER_IS_BETTER

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1, strict=True)]
HIGHEST_RATE = 10.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(_Part):
    """The open model to tune."""

    name: str = Field(
        min_length=1,
        description="A folder with config.json and safetensors, or a Hugging Face name such as "
        "Qwen/Qwen3-0.6B.",
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch of a hub model; null: the default branch."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type the base is stored and multiplied in. auto: bfloat16 where the device "
        "computes it natively, "
        "float32 on CPUs. Adapters and optimizer stay in float32 always (T33).",
    )
    attention: Literal["auto", "varlen", "sdpa", "eager"] = Field(
        "auto",
        description="Attention implementation. varlen: rows side by side without padding, SDPA for "
        "everything else; auto: varlen, or eager for models that cap their attention scores.",
    )
    chat_template: str | None = Field(
        None, description="Jinja file used instead of the tokenizer's own chat template."
    )
    adapter: str | None = Field(
        None,
        description="Folder of an adapter of this base to go on from, such as a run's `adapter`; "
        "the method must be the one it was made with. null: a fresh adapter.",
    )


class ObjectiveConfig(_Part):
    """What training makes better, and with it what a row of the data is."""

    name: Literal["sft", "dpo"] = Field(
        "sft",
        description="sft: the answers of chat lines become likelier. dpo: of the two answers of a "
        "preference line the preferred one becomes likelier than the other, measured against the "
        "model before training (Rafailov et al. 2023, arXiv:2305.18290).",
    )
    beta: Annotated[float, Field(gt=0, le=2)] = Field(
        0.1,
        description="dpo: how strongly moving away from the model before training is held back. "
        "Small values let it move further.",
    )

    @model_validator(mode="after")
    def _beta_of_dpo(self) -> ObjectiveConfig:
        if self.name == "sft" and self.beta != 0.1:
            raise ValueError("objective.name=dpo for objective.beta")
        return self


class DataConfig(_Part):
    """Chat-format JSONL, the OpenAI fine-tuning format; preference lines for objective=dpo."""

    train: str = Field(min_length=1, description="JSONL file to train on.")
    validation: str | None = Field(
        None, description="JSONL file whose loss is measured; null: none."
    )
    max_length: Auto | Annotated[int, Field(ge=8)] = Field(
        "auto",
        description="Longest row in tokens; what is longer is cut at its end, counted and shown. "
        "auto: the longest "
        "row of the data, at most the model's context.",
    )
    thinking: Auto | bool = Field(
        "auto",
        description="For templates with a thinking switch: whether replies begin with reasoning. "
        "auto: on when the "
        "data holds reasoning, off otherwise; then training and chatting use the same prompt.",
    )

    date: str | None = Field(
        None,
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        description="What templates that tell today's date are told (2026-01-31); null: the day "
        "the run is made. Kept in the run, so that resuming and chatting see the same prompt.",
    )
    faulty_rows: Literal["stop", "skip"] = Field(
        "stop",
        description="stop: any row that cannot be trained ends the command before training, with "
        "every fault. skip: train on the rest; what was left out is counted and recorded.",
    )


class TrainingConfig(_Part):
    """The optimisation."""

    learning_rate: Auto | Annotated[float, Field(gt=0, le=HIGHEST_RATE)] = Field(
        "auto",
        description="Peak learning rate (of A for LoRA+). auto: from method and width of the "
        "model; for dpo a twentieth of that.",
    )
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] = Field(
        1.0,
        description="Factor on the learning rate, whether given or auto; a run keeps the product "
        "as its rate. A rate of its own for embeddings (method.embedding_learning_rate) stays.",
    )
    num_epochs: Annotated[float, Field(gt=0, le=10_000)] = Field(
        3, description="Passes over the training rows; fractions are allowed."
    )
    max_steps: Positive | None = Field(
        None,
        description="At most this many optimizer steps; null: as many as the epochs have.",
    )
    batch_size: Positive = Field(
        8, description="Rows per optimizer step over all devices. Small batches suit adapters."
    )
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        0.03, description="Share of the steps in which the rate rises from 0."
    )
    schedule: Literal["cosine", "constant", "linear"] = Field(
        "cosine",
        description="How the rate goes on after warm-up: to 0 as a cosine or a line, or constant.",
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Decoupled weight decay (AdamW) on matrices."
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="The gradient's norm over all trained parameters is cut to this."
    )
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto",
        description="auto: for QLoRA paged_adamw_8bit (adamw_8bit on CPUs), adamw otherwise.",
    )
    train_on: Literal["all", "last"] = Field(
        "all",
        description="Which assistant turns of a conversation are trained: every one, or the last "
        "alone.",
    )
    micro_batch_tokens: Auto | Annotated[int, Field(ge=8)] = Field(
        "auto",
        description="Tokens per forward pass. The rows of one step are spread over as many passes "
        "as needed; the "
        "gradient does not depend on it. auto: from the device's memory.",
    )
    packing: Auto | bool = Field(
        "auto",
        description="Lay the rows of a pass side by side without padding; a proof at start shows "
        "that no row sees "
        "another (T16). auto: on if the proof holds.",
    )
    gradient_checkpointing: Auto | bool = Field(
        "auto",
        description="Recompute activations in the backward pass: less memory, about 45% more "
        "arithmetic with an "
        "adapter. auto: for as few layers as fit the memory, none on CPUs.",
    )
    log_every: Positive = Field(1, description="Optimizer steps between two log lines.")
    save_every: Positive | None = Field(
        None,
        description="Optimizer steps between two checkpoints; null: at the end of every epoch.",
    )
    keep_checkpoints: Positive = Field(
        2, description="How many of the newest checkpoints stay on disk."
    )
    data_seed: int | None = Field(
        None, ge=0, description="Seed of the row order; null: the run's seed."
    )


class EvaluationConfig(_Part):
    """Measured while training, on `data.validation`."""

    every: Positive | None = Field(
        None,
        description="Optimizer steps between two evaluations; null: at the end of every epoch.",
    )
    early_stopping_patience: Positive | None = Field(
        None, description="Stop after this many evaluations without a better one; null: never."
    )
    early_stopping_min_delta: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="How much better counts as better, in units of the metric; shares such as "
        "exact_match go from 0 to 1, bleu and chrf from 0 to 100.",
    )
    metrics: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Measured at every evaluation on greedy answers to rows of the validation "
        f"file: {', '.join(ANSWER_METRICS)}. None: nothing is answered while training.",
    )
    metric_rows: Annotated[int, Field(ge=1, le=100_000, strict=True)] = Field(
        32,
        description="How many rows are answered for `metrics`, evenly spread over the validation "
        "file. Answering takes time: every evaluation says how much.",
    )
    metric: str = Field(
        "loss",
        description="What decides on the best checkpoint and on early stopping: loss (lower is "
        "better), token_accuracy (higher), reward_accuracy (higher; dpo), or one of `metrics` that "
        "has a better side.",
    )
    keep_best: bool = Field(
        True,
        description="With validation data: the best checkpoint becomes the result, not the last.",
    )
    samples: Annotated[int, Field(ge=0, le=100)] = Field(
        4,
        description="Prompts answered before and after tuning, kept in result.json; from "
        "validation, else train.",
    )
    sample_tokens: Positive = Field(
        96, description="Most tokens of such an answer, and of answers for `metrics`."
    )

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in ANSWER_METRICS]
        if unknown:
            raise ValueError("; ".join(_one_of(name, list(ANSWER_METRICS)) for name in unknown))
        if len(set(names)) < len(names):
            raise ValueError("every metric once")
        return names

    @field_validator("metric")
    @classmethod
    def _decides(cls, name: str, info: ValidationInfo) -> str:
        """Measured at every evaluation, and better on one side."""
        if name not in HIGHER_IS_BETTER:
            deciding = [known for known, better in HIGHER_IS_BETTER.items() if better is not None]
            raise ValueError(_one_of(name, deciding))
        if HIGHER_IS_BETTER[name] is None:
            raise ValueError("a metric with a better side: neither a low nor a high one is better")
        measured = info.data.get("metrics")  # absent where it is wrong itself
        if measured is not None and name in ANSWER_METRICS and name not in measured:
            raise ValueError(f"loss, token_accuracy or what evaluation.metrics lists; add {name}")
        return name


class TrackingConfig(_Part):
    """Experiment trackers, all off unless named. events.jsonl is always written."""

    trackers: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = Field(
        (),
        strict=False,
        description="Trackers to report to, by name; their packages are installed by the user.",
    )
    project: str = Field("tanren", description="Project name in the tracker.")


class RunConfig(_Part):
    """Everything that decides what a run does."""

    model: ModelConfig
    data: DataConfig
    method: Method = Field(default_factory=Lora)
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        42, description="Seeds adapter initialisation, row order, dropout and sampling."
    )

    @model_validator(mode="before")
    @classmethod
    def _method_by_name(cls, values: Any) -> Any:
        """`method: dora` means `method: {name: dora}`, no name means lora; `objective: dpo` too."""
        if isinstance(values, dict):
            if isinstance(objective := values.get("objective"), str):
                values = {**values, "objective": {"name": objective}}
            method = values.get("method")
            if isinstance(method, str):
                return {**values, "method": {"name": method}}
            if isinstance(method, dict) and "name" not in method:
                return {**values, "method": {"name": "lora", **method}}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if not self.data.validation:
            wishes = ("every", "early_stopping_patience", "metrics")
            needy = [name for name in wishes if getattr(self.evaluation, name)]
            if needy:
                names = " and ".join(f"evaluation.{name}" for name in needy)
                raise ValueError(f"data.validation for {names}")
        self._suits_objective()
        return self

    def _suits_objective(self) -> None:
        """What says nothing about pairs of answers is refused instead of being ignored."""
        metric, preferences = self.evaluation.metric, self.objective.name == "dpo"
        if metric == "reward_accuracy" and not preferences:
            raise ValueError("objective.name=dpo for evaluation.metric=reward_accuracy")
        if not preferences:
            return
        if self.evaluation.metrics:
            raise ValueError(
                "no evaluation.metrics with objective.name=dpo: preference lines have no right "
                "answer to measure by; `tanren eval` measures the result on chat lines"
            )
        if self.training.train_on != "all":
            raise ValueError(
                "no training.train_on with objective.name=dpo: of a preference line the two "
                "answers are trained and nothing else"
            )

    def to_yaml(self) -> str:
        return yaml.safe_dump(
            self.model_dump(mode="json"),
            allow_unicode=True,
            sort_keys=False,
            default_flow_style=False,
        )


def load(
    path: Path | None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read a YAML file (or start from `base`), lay `key.path=value` overrides over it, validate.

    Raises ConfigError with every fault. Relative file names stay as written: they are relative to
    where the command is started, as in any shell.
    """
    values = layered(path, overrides, base=base)
    return validate(values, source=str(path) if path else "command line")


def layered(
    path: Path | None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Plain values: `base`, over it a YAML file, over that `key.path=value` overrides; nothing is
    checked yet but their form. Raises ConfigError.
    """
    values: dict[str, Any] = dict(base or {})
    if path is not None:
        values = _merge(values, read_yaml(path))
    faults = [fault for override in overrides if (fault := _apply(values, override))]
    if faults:
        raise ConfigError.of(*faults)
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read safely; keys that stand twice are an error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1
        )
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ConfigError.of(Fault(str(path), "no such file", "a YAML file", hint)) from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise ConfigError.of(
            Fault(str(path), type(error).__name__, "a readable UTF-8 YAML file", "save it as UTF-8")
        ) from None
    try:
        loaded = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "text that is not YAML"
        raise ConfigError.of(Fault(where, str(problem), "valid YAML", "mend the line")) from None
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise ConfigError.of(
            Fault(str(path), type(loaded).__name__, "a mapping of settings", "start with `model:`")
        )
    return loaded


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key standing twice instead of silently taking the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key, mark = key_node.value, key_node.start_mark
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no word", mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} twice", mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 makes a date of `2026-01-31`; here it is text like every other name.
_UniqueKeyLoader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}

# YAML 1.1 reads `2e-4` as text because of its missing dot; every person who writes a learning rate
# means the number.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged


def _apply(values: dict[str, Any], override: str) -> Fault | None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        return Fault(
            repr(override), "no `=`", "key.path=value", "write for example training.num_epochs=5"
        )
    lay(values, key.strip(), read_value(text))
    return None


def read_value(text: str) -> Any:
    """A value as YAML has it; a plain word with YAML punctuation, such as a Windows path, is
    itself.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader) if text.strip() else None
    except yaml.YAMLError:
        return text


def lay(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `key` (a dotted path) in nested plain values. What is shared with others is copied."""
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if isinstance(inner, str) and parent in ("method", "objective"):
            inner = {"name": inner}
        inner = dict(inner) if isinstance(inner, dict) else {}
        place[parent] = inner
        place = inner
    place[last] = value


def validate(values: Mapping[str, Any], *, source: str) -> RunConfig:
    """Check plain values. Raises ConfigError naming every fault, with a near name for each unknown
    key (T24).
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        faults = [_fault(dict(item), source) for item in error.errors()]
        raise ConfigError.of(*_joined(faults)) from None


def _joined(faults: Sequence[Fault]) -> list[Fault]:
    """One fault per place: a value that fits none of several types is one mistake."""
    places: dict[str, Fault] = {}
    for fault in faults:
        first = places.get(fault.where)
        if first is not None:
            fault = replace(first, expected=f"{first.expected} or {fault.expected}")
        above = next((place for place in places if fault.where.startswith(f"{place}.")), None)
        if above is not None:  # the item of a list says more than the list
            del places[above]
        places[fault.where] = fault
    return list(places.values())


# What pydantic adds to a place to say which type of a union it tried.
_UNION_BRANCH = re.compile(
    r"(bool|int|float|str)$|(constrained-|lax-or-strict|literal|function-|tuple)"
)


def _fault(item: dict[str, Any], source: str) -> Fault:
    path = [str(part) for part in item["loc"]]
    if path[:1] == ["method"] and len(path) > 1 and path[1] in METHODS:
        fields: type[BaseModel] | None = METHODS[path[1]]
        path = ["method", *path[2:]]
    else:
        fields = _fields_at(path[:-1])
    path = [part for part in path if not _UNION_BRANCH.match(part)]
    where = ".".join(path) if path else "settings"
    if source != "command line":
        where = f"{source} {where}"
    kind = item["type"]
    if kind == "extra_forbidden":
        known = sorted(fields.model_fields) if fields else []
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else "remove it"
        return Fault(where, "an unknown key", "one of " + ", ".join(known), remedy)
    if kind == "missing":
        return Fault(where, "nothing", "a value", f"add {path[-1]}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = item.get("input")
        name = found.get("name") if isinstance(found, dict) else found
        near = difflib.get_close_matches(
            str(name).lower().replace("-", "_"), list(METHODS), n=1, cutoff=0.4
        )
        remedy = f"did you mean {near[0]!r}?" if near else "choose one of them"
        return Fault(f"{where}.name", repr(name), "one of " + ", ".join(METHODS), remedy)
    expected = str(item["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    found = repr(item.get("input")) if path else "settings that contradict each other"
    refused = not path and expected.startswith("no ")
    remedy = "leave it out" if refused else "change the value" if path else "set both or neither"
    return Fault(where, _short(found), expected, remedy)


def _fields_at(path: Sequence[str]) -> type[BaseModel] | None:
    model: type[BaseModel] = RunConfig
    for part in path:
        field = model.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return None
        model = inner
    return model


def _one_of(name: str, known: Sequence[str]) -> str:
    """What was expected instead of an unknown name, with the one that is near."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"one of {', '.join(known)}" + (f"; did you mean {near[0]!r}?" if near else "")


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values by dotted path: `{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, inner in values.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            flat |= flattened(inner, f"{name}.")
        else:
            flat[name] = inner
    return flat


def documentation() -> list[tuple[str, str, str, str]]:
    """Every setting as (path, type, default, description), for the documentation and `--help`."""
    rows: list[tuple[str, str, str, str]] = []
    for part, field in RunConfig.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _rows(part, inner)
        elif part == "method":
            rows += _rows("method", Lora)
        else:
            rows.append((part, "int", str(field.default), field.description or ""))
    return rows


def _rows(prefix: str, model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, field in model.model_fields.items():
        default = (
            "" if field.is_required() else yaml.safe_dump(_plain(field.default)).split("\n")[0]
        )
        rows.append(
            (f"{prefix}.{name}", _type_name(field.annotation), default, field.description or "")
        )
    return rows


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    arguments = get_args(annotation)
    if arguments and all(isinstance(a, str) for a in arguments):
        return "|".join(arguments)
    names = [_type_name(a) for a in arguments if isinstance(a, type) or get_args(a)]
    return "|".join(dict.fromkeys(n for n in names if n not in ("NoneType",))) or str(annotation)

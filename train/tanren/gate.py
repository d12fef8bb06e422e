"""The gate before training: everything that can be known without weights, in seconds and without a
GPU.

`examine` reads and encodes the data, resolves every `auto`, counts every row and token, plans
memory, and either raises with all faults or returns what training starts from.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tanren import model as models
from tanren.adapter import Coverage, coverage, sketch, stacked_elements
from tanren.config import HIGHEST_RATE, RunConfig
from tanren.data.read import ChatReader, PreferenceReader
from tanren.data.survey import FileSurvey, Survey, survey
from tanren.devices import Device, this_device
from tanren.encode import (
    Encoded,
    EncodedCache,
    EncodeSettings,
    Hit,
    Ledger,
    cache_key,
    encode,
    encode_pairs,
    trained_text,
)
from tanren.errors import ConfigError, DataError, Fault, ModelError
from tanren.estimate import MemoryPlan, MethodFacts, ModelShape, Workload, plan_memory, shape_of
from tanren.methods import Full
from tanren.rundir import runs_root, storage_errors
from tanren.schedule import total_steps
from tanren.serving import AdapterFacts, ServingVerdict, verdicts
from tanren.template import ChatRenderer
from tanren.tracking import require_trackers

Tell = Callable[..., None]

CPU_PASS_TOKENS = 2048
PREFERENCE_RATE = 1 / 20
"""Of the rate for answers alone. A preference says which answer, not how it is written: what moves
further forgets to write. It is the ratio of TRL's own defaults (1e-6 and 2e-5).
"""
CACHED_ROWS = 2000  # below, encoding takes less time than a look into the cache is worth


def quiet(event: str, **fields: Any) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the optimizer will do. Token counts are of one epoch; the multiplier is in the rate.
    `reference_tokens` go through the model once before training, forward alone.
    """

    steps: int
    steps_per_epoch: int
    learning_rate: float
    learning_rate_multiplier: float
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    reference_tokens: int
    micro_batch_tokens: int
    checkpointed_layers: int
    dtype: Literal["float32", "bfloat16"]

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Gate:
    """What training starts from; `config` has every `auto` resolved that does not need weights."""

    config: RunConfig
    survey: Survey
    source: models.Source
    tokenizer: PreTrainedTokenizerFast
    renderer: ChatRenderer
    train: Encoded
    train_ledger: Ledger
    validation: Encoded | None
    validation_ledger: Ledger | None
    plan: Plan
    coverage: Coverage
    groups: tuple[dict[str, Any], ...]
    device: Device
    shape: ModelShape | None
    memory: MemoryPlan | None
    serving: tuple[ServingVerdict, ...]
    warnings: tuple[str, ...]

    @property
    def row_tokens(self) -> NDArray[np.int64]:
        """(rows) tokens of each row of a step."""
        return _row_tokens(self.config, self.train)

    def preview(self, count: int = 3) -> list[list[tuple[str, bool]]]:
        """Text of the first rows in pieces, with whether a piece is trained. Of a preference row
        the preferred answer and then the other.
        """
        sequences = min(_sequences(self.config) * count, len(self.train))
        return [trained_text(self.train, i, self.tokenizer) for i in range(sequences)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.source.as_dict(),
            "method": self.config.method.model_dump(mode="json"),
            "objective": self.config.objective.model_dump(mode="json"),
            "data": self.data_record(),
            "template": self.renderer.facts.as_dict(),
            "plan": self.plan.as_dict(),
            "coverage": self.coverage.as_dict(),
            "groups": list(self.groups),
            "device": asdict(self.device),
            "memory": self.memory.as_dict() if self.memory else None,
            "serving": [verdict.as_dict() for verdict in self.serving],
            "warnings": list(self.warnings),
        }

    def data_record(self) -> dict[str, Any]:
        """What data.json keeps: hashes to recognise the data by, and the ledgers."""
        return {
            "train": _file_record(self.survey.train, self.train_ledger),
            "validation": _file_record(self.survey.validation, self.validation_ledger)
            if self.survey.validation and self.validation_ledger
            else None,
            "duplicates": self.survey.as_dict()["duplicates"],
            "base": self.source.fingerprint,
            "settings": _decisive(self.config),
        }


def _file_record(found: Any, ledger: Ledger) -> dict[str, Any]:
    plain = found.as_dict()
    return {
        "path": plain["path"],
        "sha256": plain["counts"]["sha256"],
        "counts": plain["counts"],
        "turns": plain["turns"],
        "trained_turns": plain["trained_turns"],
        "ledger": ledger.as_dict(),
    }


def examine(config: RunConfig, *, tell: Tell = quiet) -> Gate:
    """Pass the gate or raise DataError, ModelError or ConfigError with every fault found."""
    require_trackers(config.tracking)
    tell("stage", name="data", text=f"reading {config.data.train}")
    found = _survey(config, tell)
    tell("stage", name="data", text=f"encoding with the tokenizer of {config.model.name}")
    source = models.locate(config.model)
    models.known_architecture(source)
    tokenizer = models.load_tokenizer(source, config.model)
    multiplier = config.training.learning_rate_multiplier
    config = _resolved(config, found, source)
    assert isinstance(config.data.thinking, bool)
    renderer = ChatRenderer(tokenizer, thinking=config.data.thinking, date=config.data.date)
    train, train_ledger = _encode(config, found.train, renderer, source, tell)
    validation, validation_ledger = None, None
    if found.validation is not None:
        validation, validation_ledger = _encode(config, found.validation, renderer, source, tell)
    _require_trainable(config, [train_ledger, *([validation_ledger] if validation_ledger else [])])
    here = this_device()
    shape = _shape(source)
    memory = _memory(config, shape, train, here)
    plan = _plan(config, train, train_ledger, memory, here, multiplier)
    lengths = [ledger.max_length for ledger in (train_ledger, validation_ledger) if ledger]
    config = _planned(config, max(lengths), plan)
    outline = sketch(source, config.method)
    groups = config.method.optimizer_groups(
        outline.named_parameters(),
        learning_rate=plan.learning_rate,
        weight_decay=config.training.weight_decay,
    )
    covered = coverage(outline)
    warnings = [*found.warnings, *_ledger_warnings(train_ledger, config.data.train)]
    if validation_ledger is not None and config.data.validation is not None:
        warnings += _ledger_warnings(validation_ledger, config.data.validation)
    if renderer.facts.bos_left_out:
        warnings.append(
            "the chat template writes no BOS although the tokenizer adds one elsewhere: as in "
            "inference, none is added"
        )
    if shape is None:
        kind = source.config.get("model_type")
        warnings.append(f"memory and speed are not estimated for the architecture {kind!r}")
    warnings += _expert_warnings(config, covered, stacked_elements(outline))
    if memory is not None and not memory.fits:
        warnings.extend(memory.advice)
    family = source.config.get("model_type")
    serving = verdicts(AdapterFacts.planned(config.method, model_type=family))
    warnings += _serving_warnings(serving)
    return Gate(
        config=config,
        survey=found,
        source=source,
        tokenizer=tokenizer,
        renderer=renderer,
        train=train,
        train_ledger=train_ledger,
        validation=validation,
        validation_ledger=validation_ledger,
        plan=plan,
        coverage=covered,
        groups=tuple(group.as_dict() for group in groups),
        device=here,
        shape=shape,
        memory=memory,
        serving=serving,
        warnings=tuple(warnings),
    )


def _survey(config: RunConfig, tell: Tell) -> Survey:
    validation = Path(config.data.validation) if config.data.validation else None
    found = survey(
        Path(config.data.train),
        against=validation,
        preferences=config.objective.name == "dpo",
        on_progress=lambda done, total: tell("progress", done=done, total=total, unit="bytes read"),
    )
    found.require_sound(skip_faulty=config.data.faulty_rows == "skip")
    return found


def _resolved(config: RunConfig, found: Survey, source: models.Source) -> RunConfig:
    """Every `auto` that data and model decide."""
    data = config.data.model_copy(
        update={
            "thinking": found.has_reasoning
            if config.data.thinking == "auto"
            else config.data.thinking,
            "date": config.data.date or datetime.date.today().isoformat(),
        }
    )
    training = config.training
    hidden = int(source.config.get("text_config", source.config).get("hidden_size", 1024))
    rate = training.learning_rate
    if rate == "auto":
        rate = config.method.auto_learning_rate(hidden)
        rate *= PREFERENCE_RATE if config.objective.name == "dpo" else 1.0
    training = training.model_copy(
        update={
            "learning_rate": _multiplied(rate, training.learning_rate_multiplier),
            "learning_rate_multiplier": 1.0,
        }
    )
    if training.optimizer == "auto":
        small = config.method.storage == "nf4"
        on_gpu = models.device().type == "cuda"  # paging moves state between GPU and host
        kind = ("paged_adamw_8bit" if on_gpu else "adamw_8bit") if small else "adamw"
        training = training.model_copy(update={"optimizer": kind})
    dtype = str(models.compute_dtype(config.model)).removeprefix("torch.")
    model = config.model.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"data": data, "training": training, "model": model})


def _multiplied(rate: float, multiplier: float) -> float:
    product = rate * multiplier
    if product > HIGHEST_RATE:
        fault = Fault(
            "training.learning_rate_multiplier",
            f"{multiplier:g}, which makes the learning rate {product:g}",
            f"a learning rate of at most {HIGHEST_RATE:g}",
            "lower one of the two",
        )
        raise ConfigError.of(fault)
    return product


def _encode(
    config: RunConfig, file: FileSurvey, renderer: ChatRenderer, source: models.Source, tell: Tell
) -> tuple[Encoded, Ledger]:
    """Encode a file, or take what the same bytes were encoded to before (T18)."""
    settings = EncodeSettings(
        model_max_length=models.context_length(source.config),
        max_length=config.data.max_length,
        train_on=config.training.train_on,
        pairs=config.objective.name == "dpo",
    )
    path = Path(file.path)
    total = file.counts.examples

    def progress(done: int) -> None:
        tell("progress", done=done, total=total, unit="rows encoded")

    def encoded(told: Callable[[int], None] | None = None) -> tuple[Encoded, Ledger]:
        if settings.pairs:
            return encode_pairs(PreferenceReader(path), renderer, settings, progress=told)
        return encode(ChatReader(path), renderer, settings, progress=told)

    if total < CACHED_ROWS:
        return encoded()
    cache = EncodedCache(runs_root() / ".cache" / "encoded")
    key = cache_key([(file.path, str(file.counts.sha256))], renderer, settings)
    stored = cache.load(key)
    if isinstance(stored, Hit):
        tell("note", text=f"{file.path}: encoded before, read from {cache.path(key)}")
        return stored.encoded, stored.ledger
    if stored.broken:
        tell("note", text=stored.broken)
    found, ledger = encoded(progress)
    with storage_errors(cache.directory):
        cache.store(key, found, ledger)
        _forget_oldest(cache.directory)
    return found, ledger


def _sequences(config: RunConfig) -> int:
    """Of each row of a step."""
    return 2 if config.objective.name == "dpo" else 1


def _row_tokens(config: RunConfig, train: Encoded) -> NDArray[np.int64]:
    """(rows) tokens that a row takes in a pass: of a pair both halves, for they go together."""
    halves = train.lengths.reshape(-1, _sequences(config))
    if config.training.packing is False:
        return halves.max(axis=1) * halves.shape[1]
    return halves.sum(axis=1)


def _forget_oldest(folder: Path, keep: int = 8) -> None:
    """Remove all but the newest encoded files: they can be made again at any time."""
    with contextlib.suppress(FileNotFoundError):  # another process was quicker
        files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-keep]:
            file.unlink(missing_ok=True)


def _require_trainable(config: RunConfig, ledgers: list[Ledger]) -> None:
    faults = [fault for ledger in ledgers for fault in ledger.faults]
    count = sum(ledger.fault_count for ledger in ledgers)
    empty = any(ledger.trained_rows == 0 for ledger in ledgers)
    if (count and config.data.faulty_rows == "stop") or empty:
        rows = sum(ledger.refused_rows for ledger in ledgers)
        raise DataError(f"{rows} rows cannot be trained", faults)


def _shape(source: models.Source) -> ModelShape | None:
    try:
        return shape_of(source.config, source=f"{source.name}/config.json")
    except ModelError:
        return None  # an architecture without an estimate can still be trained; a warning says so


def _memory(
    config: RunConfig, shape: ModelShape | None, train: Encoded, here: Device
) -> MemoryPlan | None:
    if shape is None:
        return None
    training = config.training
    rows = _row_tokens(config, train)
    dtype = config.model.dtype
    optimizer = training.optimizer
    assert dtype != "auto" and optimizer != "auto"
    wanted = training.micro_batch_tokens
    work = Workload(
        memory_bytes=here.memory_free,
        longest_row=int(rows.max()),
        batch_tokens=int(np.sort(rows)[-training.batch_size :].sum()),
        sequences=_sequences(config),
        dtype=dtype,
        device=here.kind,
        checkpointing=training.gradient_checkpointing,
        micro_batch_tokens=None if wanted == "auto" else wanted,
        attention="varlen" if training.packing is not False else "sdpa",
        packed=training.packing is not False,
    )
    try:
        return plan_memory(shape, MethodFacts.of(config.method, optimizer), work)
    except ModelError:
        return None  # targets are checked against the loaded model, with the candidates named


def _plan(
    config: RunConfig,
    train: Encoded,
    ledger: Ledger,
    memory: MemoryPlan | None,
    here: Device,
    multiplier: float,
) -> Plan:
    training = config.training
    rows = _row_tokens(config, train)
    per_epoch = -(-len(rows) // training.batch_size)
    steps = total_steps(training.num_epochs, per_epoch, training.max_steps)
    if training.micro_batch_tokens != "auto":
        tokens = training.micro_batch_tokens
    else:
        tokens = memory.micro_batch_tokens if memory else CPU_PASS_TOKENS
        if here.kind == "cpu":
            tokens = min(tokens, CPU_PASS_TOKENS)
    assert training.learning_rate != "auto" and config.model.dtype != "auto"
    return Plan(
        steps=steps,
        steps_per_epoch=per_epoch,
        learning_rate=training.learning_rate,
        learning_rate_multiplier=multiplier,
        tokens_per_epoch=ledger.tokens,
        trained_tokens_per_epoch=ledger.trained_tokens,
        reference_tokens=ledger.tokens if config.objective.name == "dpo" else 0,
        micro_batch_tokens=max(tokens, int(rows.max())),
        checkpointed_layers=memory.checkpointed_layers if memory else 0,
        dtype=config.model.dtype,
    )


def _planned(config: RunConfig, max_length: int, plan: Plan) -> RunConfig:
    """The settings that, read again, give the same run: no row is cut that was whole before."""
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"max_length": max_length}),
            "training": config.training.model_copy(
                update={"micro_batch_tokens": plan.micro_batch_tokens}
            ),
        }
    )


def _ledger_warnings(ledger: Ledger, path: str) -> list[str]:
    said = []
    if ledger.trained_cut:
        said.append(
            f"{path}: {ledger.trained_cut} rows were longer than {ledger.max_length} tokens and "
            f"lost {ledger.cut_tokens} at their end, {ledger.cut_trained_tokens} of them trained; "
            f"{ledger.cut_replies} replies lost their end of turn"
        )
    for tally, text in (
        (ledger.special_text, "rows have a control token typed inside a message"),
        (ledger.left_out, "rows have text that the chat template does not write"),
        (ledger.tools_left_out, "rows have tools that the chat template does not show"),
        (ledger.unused_tail, "rows have messages after the last trained reply"),
        (ledger.empty_reasoning, "rows teach an empty reasoning block"),
        (ledger.developer_as_system, "rows have a developer message, shown as a system message"),
    ):
        if tally.count:
            said.append(f"{path}: {tally.count} {text}, first {tally.places[0]}")
    if ledger.own_lost_reasoning_tokens:
        said.append(
            f"{path}: the chat template removes {ledger.own_lost_reasoning_tokens} tokens of "
            "reasoning, which are not learned"
        )
    return said


def _expert_warnings(config: RunConfig, covered: Coverage, elements: int) -> list[str]:
    """What a mixture leaves as it is. `elements`: parameters that lie in stacks of experts."""
    method = config.method
    if not elements or isinstance(method, Full):
        return []
    said = []
    experts = f"the experts, {elements / covered.total:.0%} of the parameters,"
    if method.storage == "nf4":
        said.append(
            f"only linear layers are stored in 4 bits: {experts} stay in {config.model.dtype}"
        )
    if not method.target_parameters and method.adapts_stacks:
        said.append(
            f"{experts} have no adapter; to give them one, name them: "
            f"method.target_parameters=[{','.join(covered.stacks)}]"
        )
    elif not method.target_parameters:
        said.append(f"{experts} have no adapter, and {method.title} cannot give them one")
    return said


def _serving_warnings(serving: tuple[ServingVerdict, ...]) -> list[str]:
    """What cannot be served the way it is trained is said before training (T15)."""
    refusing = [verdict for verdict in serving if verdict.unmerged == "no"]
    if not refusing:
        return []
    found = dict.fromkeys(item.found for verdict in refusing for item in verdict.obstacles)
    names = ", ".join(verdict.server for verdict in refusing)
    return [f"{names}: cannot serve this adapter unmerged ({', '.join(found)}), only merged"]


def _decisive(config: RunConfig) -> dict[str, Any]:
    """The settings that decide the numbers, flat: `training.batch_size` -> 8."""
    plain = config.model_dump(
        mode="json",
        exclude={
            "tracking": True,
            "training": {"log_every", "save_every", "keep_checkpoints", "micro_batch_tokens"},
            "evaluation": {"samples"}
            if config.evaluation.metrics
            else {"samples", "sample_tokens"},
        },
    )
    return {
        f"{part}.{key}" if isinstance(values, dict) else part: value
        for part, values in plain.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }


_ADDED_LATER = {
    "training.learning_rate_multiplier": 1.0,
    "objective.name": "sft",
    "objective.beta": 0.1,
}
"""Settings that records of older runs lack, with what those runs did."""


def changed_since(record: dict[str, Any], gate: Gate) -> list[Fault]:
    """How data, settings and base differ from what a run was started with (T6)."""
    faults = []
    for name, new in _decisive(gate.config).items():
        old = record["settings"].get(name, _ADDED_LATER.get(name))
        if old != new:
            faults.append(
                Fault(
                    name,
                    repr(new),
                    f"{old!r}, as when the run began",
                    "set it back in the run's config.yaml, or resume with --accept-changes",
                )
            )
    if record["base"] != gate.source.fingerprint:
        faults.append(
            Fault(
                f"model {gate.source.name}",
                f"fingerprint {gate.source.fingerprint[:12]}",
                f"{record['base'][:12]}, as when the run began",
                "restore the base model, or resume with --accept-changes",
            )
        )
    for name, now in (("train", gate.survey.train), ("validation", gate.survey.validation)):
        before = record.get(name)
        old = before["sha256"] if before else None
        new = now.counts.sha256 if now else None
        if old != new:
            faults.append(
                Fault(
                    now.path if now else f"data.{name}",
                    f"sha256 {str(new)[:12]}",
                    f"sha256 {str(old)[:12]}, as when the run began",
                    "restore the file, or resume with --accept-changes",
                )
            )
    return faults

"""What a model card tells, collected from a run or from an adapter alone.

No path, no command line, no host and no word of the data gets into it: only numbers, hashes, names
of public models and versions. What is not recorded is told as unknown, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tanren.artefact import CARD, Prompting
from tanren.config import RunConfig
from tanren.export.licence import Licence, languages_of, licence_of
from tanren.methods import METHODS
from tanren.rundir import RunDirectory, read_json

Kind = Literal["merged", "adapter", "gguf", "ollama", "vllm"]
Rows = tuple[tuple[str, str], ...]
"""(what, value) pairs, a table's lines."""

UNKNOWN = "unknown"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Base:
    """The model that was tuned. `name` is its Hub name; None for a folder: its path is private."""

    name: str | None
    revision: str | None
    fingerprint: str | None
    architecture: str | None
    licence: Licence
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """How the model is to be prompted.

    thinking   "none": no such switch; "switch": `switch` takes `on` (None: its default);
               "always": every prompt opens reasoning; None: unknown
    stops      what ends a reply, as text and as ids; empty: unknown
    """

    thinking: Literal["none", "switch", "always"] | None
    switch: str | None
    on: bool | None
    date: str | None
    stop_text: str | None
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that `model_card` writes.

    whole      the files are a whole model; False: an adapter that needs its base
    weights    names of weight files that commands mention (`tuned-q8_0.gguf`)
    commands   shell commands of the exporter; they replace the card's own
    compared   what the proof compared, in words
    unserved   why servers cannot put this adapter on its base; None where they can
    repo       Hub name of the export where it is known; commands show a placeholder otherwise
    """

    kind: Kind
    whole: bool
    base: Base
    method: str
    rank: int | None
    how: Rows
    data: Rows
    outcome: Rows
    made_with: Rows
    prompt: Prompt
    proof: Mapping[str, Any] | None
    compared: str
    weights: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    unserved: str | None = None
    repo: str | None = None


def card_facts(
    artefact: Path,
    *,
    kind: Kind,
    whole: bool | None = None,
    run: RunDirectory | None = None,
    base: Path | None = None,
    base_name: str | None = None,
    proof: Mapping[str, Any] | None = None,
    compared: str | None = None,
    weights: Sequence[str] = (),
    commands: Sequence[str] = (),
    repo: str | None = None,
) -> CardFacts:
    """Collect what is known about `artefact`, a folder as training left it (an adapter or a whole
    model). `run` adds how it was trained; `base` is the base's folder, for its licence and
    languages; `base_name` its public name where the artefact knows a folder only.
    """
    prompting = Prompting.read(artefact) if (artefact / CARD).is_file() else None
    settings = _read(artefact / "adapter_config.json")
    method = _method(prompting, settings)
    if whole is None:
        whole = kind in ("merged", "gguf", "ollama")
    return CardFacts(
        kind=kind,
        whole=whole,
        base=_base(artefact, prompting, settings, base, base_name),
        method=_title(method),
        rank=method.get("rank"),
        how=(*_how(method, prompting), *_schedule(run)),
        data=_data(prompting, run),
        outcome=_outcome(run),
        made_with=_made_with(prompting, settings, run),
        prompt=_prompt(prompting, run),
        proof=proof,
        compared=compared or _compared(kind, whole),
        weights=tuple(weights),
        commands=tuple(commands),
        unserved=None if whole else _unserved(method),
        repo=repo,
    )


def _title(method: Mapping[str, Any]) -> str:
    """`LoRA+` for `lora_plus`; a method of PEFT that is none of ours keeps PEFT's name."""
    name = str(method.get("name", UNKNOWN))
    return str(METHODS[name].title) if name in METHODS else name


def _unserved(method: Mapping[str, Any]) -> str | None:
    """What servers of adapters leave out without a word, or refuse (T15)."""
    if method.get("name") == "dora":
        return "vLLM serves no DoRA adapters: serve the merged model."
    if method.get("modules_to_save"):
        return "vLLM serves no adapters with modules trained whole: serve the merged model."
    return None


def _read(path: Path) -> dict[str, Any]:
    values = read_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def _method(prompting: Prompting | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's settings under our names; of an adapter from elsewhere, what PEFT recorded."""
    if prompting is not None:
        return dict(prompting.method)
    if not settings:
        return {}
    start = str(settings.get("init_lora_weights") or "").lower()
    name = next((known for known in ("pissa", "olora", "eva") if start.startswith(known)), "lora")
    name = "rslora" if settings.get("use_rslora") else name
    name = "dora" if settings.get("use_dora") else name
    if settings.get("peft_type") not in (None, "LORA"):
        name = str(settings["peft_type"])
    return {
        "name": name,
        "rank": settings.get("r"),
        "alpha": settings.get("lora_alpha"),
        "dropout": settings.get("lora_dropout"),
        "target_modules": settings.get("target_modules"),
        "modules_to_save": settings.get("modules_to_save") or (),
    }


def _base(
    artefact: Path,
    prompting: Prompting | None,
    settings: Mapping[str, Any],
    folder: Path | None,
    given: str | None,
) -> Base:
    name, revision, fingerprint = given, None, None
    if prompting is not None:
        fingerprint, revision = prompting.base_fingerprint, prompting.base_revision
        # A revision is recorded for models of the Hub alone: without one, the base is a path.
        name = given or (prompting.base if revision else None)
    elif settings:
        stated = str(settings.get("base_model_name_or_path") or "")
        public = _HUB_NAME.fullmatch(stated) and not Path(stated).exists()
        name = given or (stated if public else None)
        revision = settings.get("revision") if name == stated else None
    config = _read((folder or artefact) / "config.json")
    kinds = config.get("architectures") or [config.get("model_type")]
    return Base(
        name=name,
        revision=revision,
        fingerprint=fingerprint,
        architecture=str(kinds[0]) if kinds[0] else None,
        licence=licence_of(folder),
        languages=languages_of(folder),
    )


def _how(method: Mapping[str, Any], prompting: Prompting | None) -> Rows:
    name = str(method.get("name", UNKNOWN))
    rows = [("Method", _title(method))]
    if name != "full":
        rows += [
            ("Rank", number(method.get("rank"))),
            ("Alpha", number(method.get("alpha"))),
            ("Adapter dropout", number(method.get("dropout"))),
            ("Adapted layers", _layers(method.get("target_modules"))),
        ]
    if method.get("modules_to_save"):
        rows.append(("Modules trained whole", ", ".join(method["modules_to_save"])))
    return (*rows, ("Base in training", _storage(prompting)))


def _storage(prompting: Prompting | None) -> str:
    if prompting is None:
        return UNKNOWN
    products = "the device's own type" if prompting.dtype == "auto" else prompting.dtype
    return f"4-bit NF4, products in {products}" if prompting.storage == "nf4" else products


def _schedule(run: RunDirectory | None) -> Rows:
    if run is None:
        unknown = ("Learning rates", "Steps", "Epochs", "Batch size", "Seed")
        return tuple((name, UNKNOWN) for name in unknown)
    config, result = run.config(), _read(run.result_file)
    training = config.training
    groups = result.get("optimizer_groups") or []
    rates = [f"{number(g['learning_rate'])} ({g['name']})" for g in groups]
    order = config.seed if training.data_seed is None else training.data_seed
    return (
        ("Learning rates", ", ".join(rates) or number(training.learning_rate)),
        ("Schedule", f"{training.schedule}, warm-up {training.warmup_fraction:.0%} of the steps"),
        ("Optimizer", f"{training.optimizer}, weight decay {number(training.weight_decay)}"),
        ("Steps", number(result.get("steps"))),
        ("Epochs", number(result.get("epochs"))),
        ("Batch size", f"{training.batch_size} rows a step"),
        ("Trained replies", _trained_replies(config)),
        ("Seed", f"{config.seed} (order of the rows: {order})"),
        ("Trained parameters", number(result.get("trained_parameters"))),
    )


def _trained_replies(config: RunConfig) -> str:
    if config.objective.name == "dpo":
        beta = number(config.objective.beta)
        return f"of each row the preferred one over the other (DPO, beta {beta})"
    return "every one" if config.training.train_on == "all" else "the last of each row"


def _layers(targets: object) -> str:
    """Short words for target modules: a list of full names is told by its distinct endings."""
    if targets is None:
        return UNKNOWN
    if isinstance(targets, str):
        return "every linear layer but the head" if targets == "all-linear" else targets
    names = [str(name) for name in targets] if isinstance(targets, Iterable) else [str(targets)]
    endings = sorted({name.rpartition(".")[2] for name in names})
    return ", ".join(endings)


def _data(prompting: Prompting | None, run: RunDirectory | None) -> Rows:
    if run is None:
        sha = prompting.data_sha256 if prompting is not None else UNKNOWN
        return (("Rows", UNKNOWN), ("Trained tokens", UNKNOWN), ("Hash of the file (sha256)", sha))
    record = _read(run.data_file)
    rows = list(_one_file("", _at(record, "train")))
    if record.get("validation"):
        rows += _one_file("Validation: ", record["validation"])
    return tuple(rows)


def _one_file(prefix: str, record: object) -> Rows:
    used = (_at(record, "ledger", "trained_whole"), _at(record, "ledger", "trained_cut"))
    rows = f"{sum(n or 0 for n in used):,} of {number(_at(record, 'ledger', 'source_rows'))}"
    tokens = number(_at(record, "ledger", "trained_tokens"))
    of = number(_at(record, "ledger", "tokens"))
    noun = "measured" if prefix else "trained"
    listed = [
        (f"{prefix}rows", rows),
        (f"{prefix}{noun} tokens", f"{tokens} of {of}"),
        (f"{prefix}hash of the file (sha256)", str(_at(record, "sha256") or UNKNOWN)),
    ]
    return tuple((what[:1].upper() + what[1:], value) for what, value in listed)


def _outcome(run: RunDirectory | None) -> Rows:
    if run is None:
        return (("Losses", UNKNOWN),)
    result = _read(run.result_file)
    rows = [
        ("First training loss", number(_at(result, "loss", "first"))),
        ("Last training loss", number(_at(result, "loss", "last"))),
    ]
    best = result.get("best")
    if isinstance(best, dict):
        measured = [f"{key.replace('_', ' ')} {number(best[key])}" for key in _metrics(best)]
        kept = "kept" if best.get("kept") else "not kept"
        rows.append(
            ("Best validation", f"{', '.join(measured)} at step {best.get('step')} ({kept})")
        )
    else:
        rows.append(("Best validation", "not measured: there was no validation data"))
    if result.get("stopped_early"):
        rows.append(("Stopped early", "yes"))
    return tuple(rows)


def _metrics(best: Mapping[str, Any]) -> list[str]:
    return [k for k, v in best.items() if k != "step" and isinstance(v, float)]


def _made_with(
    prompting: Prompting | None, settings: Mapping[str, Any], run: RunDirectory | None
) -> Rows:
    there = run is not None and run.environment_file.is_file()
    environment = _read(run.environment_file) if run is not None and there else {}
    versions: Mapping[str, Any] = environment.get("versions") or (
        prompting.versions if prompting is not None else {"peft": settings.get("peft_version")}
    )
    listed = [f"{name} {version}" for name, version in versions.items() if version]
    rows = [("Hardware", _hardware(environment)), ("Versions", ", ".join(listed) or UNKNOWN)]
    if run is not None:
        result = _read(run.result_file)
        seconds = _at(result, "seconds", "train")
        rows.append(("Training time", UNKNOWN if seconds is None else f"{number(seconds)} s"))
        peak = result.get("peak_memory_bytes")
        rows.append(("Peak memory", UNKNOWN if peak is None else f"{peak / 2**30:.2f} GiB"))
    return tuple(rows)


def _hardware(environment: Mapping[str, Any]) -> str:
    if not environment:
        return UNKNOWN
    count, device = environment.get("world_size", 1), str(environment.get("device", UNKNOWN))
    device = "CPU" if device == "cpu" else device
    cuda = f", CUDA {environment['cuda']}" if environment.get("cuda") else ""
    return (f"{count} x " if count != 1 else "") + device + cuda


def _prompt(prompting: Prompting | None, run: RunDirectory | None) -> Prompt:
    record = _read(run.data_file) if run is not None else {}
    template = _at(record, "train", "ledger", "template")
    if not isinstance(template, dict):
        return Prompt(
            thinking=None,
            switch=None,
            on=prompting.thinking if prompting is not None else None,
            date=None,
            stop_text=None,
            stop_ids=prompting.stop_ids if prompting is not None else (),
        )
    return Prompt(
        thinking=template.get("thinking"),
        switch=template.get("thinking_switch"),
        on=template.get("thinking_on"),
        date=template.get("date") if template.get("uses_date") else None,
        stop_text=template.get("end_of_turn"),
        stop_ids=tuple(template.get("stop_ids") or ()),
    )


def _compared(kind: Kind, whole: bool) -> str:
    readers = {
        "merged": "transformers",
        "adapter": "PEFT",
        "vllm": "transformers" if whole else "PEFT",
        "gguf": "a reader of GGUF",
        "ollama": "a reader of GGUF",
    }
    what = "this model" if whole else "this adapter"
    return f"{what}, reloaded from disk by {readers[kind]}, with the model as it was trained"


def _at(values: object, *keys: str) -> Any:
    """The value under nested keys, or None where one of them is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def number(value: object) -> str:
    """A number for people: 1,234 and 4 significant digits; None is unknown."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"

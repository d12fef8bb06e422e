"""What a client asks of a job, checked for form: every value against its bounds, in OpenAI's words.

`asked_settings` reads our own extension: settings of the run under `tanren`, flat or nested, and
the same ones as metadata for clients that can send nothing else (`"tanren.rank": "32"`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import yaml

from tanren.config import DataConfig, EvaluationConfig, TrainingConfig, flattened, read_value
from tanren.errors import Fault
from tanren.methods import METHODS
from tanren.store.errors import InvalidRequest
from tanren.store.records import JobRequest
from tanren.strict_json import close_match, quoted, shown

MOST_INTEGRATIONS, MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE, LONGEST_SUFFIX = 5, 16, 64, 512, 64
MOST_SEED = 2**31 - 1
MOST_PRIORITY = 1000
_WHOLE: Final[Mapping[str, tuple[int, int]]] = {"n_epochs": (1, 50), "batch_size": (1, 256)}
_OWN: Final[Mapping[str, tuple[str, ...]]] = {
    "supervised": ("n_epochs", "batch_size", "learning_rate_multiplier"),
    "dpo": ("n_epochs", "batch_size", "learning_rate_multiplier", "beta"),
}
MEANS: Final[Mapping[str, str]] = {
    "n_epochs": "training.num_epochs",
    "batch_size": "training.batch_size",
    "learning_rate_multiplier": "training.learning_rate_multiplier",
    "beta": "objective.beta",
}
"""Hyperparameters by the setting of the run that each one is."""

# A client chooses how is trained, never what the service reads and writes: no paths, no network.
_METHOD_FIELDS = tuple(dict.fromkeys(n for kind in METHODS.values() for n in kind.model_fields))
_OPEN: Final[Mapping[str, tuple[str, ...]]] = {
    "method": _METHOD_FIELDS,
    "training": tuple(TrainingConfig.model_fields),
    "evaluation": tuple(EvaluationConfig.model_fields),
    "data": tuple(name for name in DataConfig.model_fields if name not in ("train", "validation")),
    "model": ("dtype", "attention"),
}
_FLAT: Final[Mapping[str, str]] = {
    name: f"{part}.{name}"
    for part in ("model", "data", "training", "method")
    for name in _OPEN[part]
    if name != "name"
}
_PREFIX = "tanren."
_DEEPEST = 8
"""Lists and mappings inside each other in one text of the metadata."""


def _wrong(message: str, where: str) -> NoReturn:
    raise InvalidRequest(f"{message} - '{where}'", param=where)


def check_form(request: JobRequest) -> dict[str, Any]:
    """Raises InvalidRequest for the first value that cannot be; returns the hyperparameters, whole
    numbers as such and absent ones "auto".
    """
    if request.method not in _OWN:
        raise InvalidRequest(
            f"The method {request.method!r} is not supported here; supported are "
            f"{', '.join(_OWN)}.",
            param="method",
            code="unsupported_method",
        )
    _check_text("model", request.model, 1, 512)
    _check_text("training_file", request.training_file, 1, 512)
    if request.validation_file is not None:
        _check_text("validation_file", request.validation_file, 1, 512)
    if request.suffix is not None:
        _check_text("suffix", request.suffix, 1, LONGEST_SUFFIX)
    if request.seed is not None:
        checked_whole("seed", request.seed, 0, MOST_SEED)
    _check_metadata(request.metadata or {})
    _check_integrations(request.integrations)
    return _hyperparameters(request.hyperparameters, _OWN[request.method])


def _check_text(where: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, str):
        _wrong(f"{shown(value)} is not of type 'string'", where)
    if len(value) < least:
        _wrong(f"{value!r} is too short", where)
    if len(value) > most:
        _wrong(f"{value[:most]!r}... is too long: {len(value)} characters of {most}", where)
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in value):
        _wrong("half a character or a NUL, which is no text", where)


def checked_whole(where: str, value: object, least: int, most: int) -> int:
    """A whole number; 3.0 is one, as in JSON Schema; True is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        _wrong(f"{shown(value)} is not of type 'integer'", where)
    if value < least:
        _wrong(f"{value} is less than the minimum of {least}", where)
    if value > most:
        _wrong(f"{value} is greater than the maximum of {most}", where)
    return value


def checked_priority(value: object, where: str = "priority") -> int:
    """Raises InvalidRequest."""
    return checked_whole(where, value, -MOST_PRIORITY, MOST_PRIORITY)


def _check_metadata(pairs: Mapping[str, str]) -> None:
    if len(pairs) > MOST_PAIRS:
        _wrong(f"{len(pairs)} pairs are too many: {MOST_PAIRS} at most", "metadata")
    for key, value in pairs.items():
        _check_text("metadata", key, 1, LONGEST_KEY)
        _check_text(f"metadata.{key}", value, 0, LONGEST_VALUE)


def _check_integrations(integrations: Sequence[Mapping[str, Any]]) -> None:
    if len(integrations) > MOST_INTEGRATIONS:
        _wrong(f"{len(integrations)} are too many: {MOST_INTEGRATIONS} at most", "integrations")
    for number, each in enumerate(integrations):
        where = f"integrations.{number}"
        if not isinstance(each, Mapping) or each.get("type") != "wandb":
            kind = each.get("type") if isinstance(each, Mapping) else each
            _wrong(f"{shown(kind)} is not one of ['wandb']", f"{where}.type")
        settings = each.get("wandb")
        if not isinstance(settings, Mapping):
            _wrong(f"{shown(settings)} is not of type 'object'", f"{where}.wandb")
        _check_text(f"{where}.wandb.project", settings.get("project"), 1, 256)


def _hyperparameters(given: Mapping[str, Any], own: Sequence[str]) -> dict[str, Any]:
    unknown = [name for name in given if name not in own]
    if unknown:
        _wrong(
            f"Additional properties are not allowed ({unknown[0]!r} was unexpected)",
            "hyperparameters",
        )
    return {name: _hyperparameter(name, given.get(name)) for name in own}


def _hyperparameter(name: str, value: object) -> Any:
    where = f"hyperparameters.{name}"
    if value is None or value == "auto":
        return "auto"
    if name in _WHOLE:
        if isinstance(value, str):
            _wrong(f"{value!r} is not one of ['auto'] and not of type 'integer'", where)
        return checked_whole(where, value, *_WHOLE[name])
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(f"{shown(value)} is not one of ['auto'] and not of type 'number'", where)
    if not math.isfinite(value) or value <= 0:
        _wrong(f"{value} is less than or equal to the minimum of 0", where)
    if name == "beta" and value > 2:
        _wrong(f"{value} is greater than the maximum of 2", where)
    return value


# --- our own settings -----------------------------------------------------------------------------


def asked_settings(
    tanren: Mapping[str, Any], metadata: Mapping[str, str] | None
) -> tuple[dict[str, Any], int]:
    """Settings of the run by dotted path, and the job's priority. What stands in both places is
    that of `tanren`. Raises InvalidRequest with every unknown or forbidden key; values are checked
    with the run's other settings.
    """
    texts = {
        key.removeprefix(_PREFIX): _value_of(value)
        for key, value in (metadata or {}).items()
        if key.startswith(_PREFIX)
    }
    given = {**texts, **flattened(_method_by_name(tanren))}
    found: dict[str, Any] = {}
    faults: list[Fault] = []
    priority = given.pop("priority", 0)
    for key, value in given.items():
        path = "method.name" if key == "method" else _FLAT.get(key, key)
        fault = _fault_of_key(key, path)
        if fault is None:
            found[path] = value
        else:
            faults.append(fault)
    if faults:
        raise refused_settings(faults)
    return found, checked_priority(priority, "tanren.priority")


def _value_of(text: str) -> Any:
    """As YAML has it, within what JSON can say; anything else is the text itself.

    A few hundred letters of YAML whose parts name each other (aliases) unfold to gigabytes.
    """
    try:
        depth = deepest = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                return text
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            deepest = max(deepest, depth)
    except (yaml.YAMLError, ValueError):
        return text
    if deepest > _DEEPEST:
        return text
    try:
        value = read_value(text)
    except ValueError:  # a date that cannot be, a number of too many digits
        return text
    return value if _is_json(value) else text


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _method_by_name(tanren: Mapping[str, Any]) -> dict[str, Any]:
    """`{"method": "dora", "method.rank": 4}` and `{"method": {"name": "dora"}}` alike."""
    method = tanren.get("method")
    return {**tanren, "method": {"name": method}} if isinstance(method, str) else dict(tanren)


def _fault_of_key(key: str, path: str) -> Fault | None:
    part, _, name = path.partition(".")
    if name in _OPEN.get(part, ()):
        return None
    where = f"{_PREFIX}{key}"
    if part in ("model", "data", "tracking"):
        return Fault(
            where,
            "a setting that is the service's own",
            "one of " + ", ".join(f"{p}.{n}" for p in ("model", "data") for n in _OPEN[p]),
            "remove it: the job's model and files decide",
        )
    known = [f"{part}.{n}" for n in _OPEN[part]] if part in _OPEN else [*_FLAT, "priority"]
    near = close_match(path, known) or close_match(path, list(_FLAT))
    remedy = f"did you mean {quoted(near)}?" if near else "remove it"
    shown_names = ", ".join(known if part in _OPEN else [*_OPEN, "priority"])
    return Fault(where, "an unknown key", f"one of {shown_names}", remedy)


def refused_settings(faults: Sequence[Fault]) -> InvalidRequest:
    """Every fault of our own settings in one message."""
    words = "; ".join(str(fault) for fault in faults)
    return InvalidRequest(words, param="tanren", code="invalid_tanren_settings")

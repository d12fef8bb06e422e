"""What a MODEL on the command line means: a run, an adapter, whole weights, a base, an endpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tanren.artefact import Prompting, artefact_of
from tanren.config import ModelConfig
from tanren.endpoint import EndpointConfig, load_endpoint
from tanren.errors import ConfigError, Fault, UserError
from tanren.model import compute_dtype, fingerprint, locate
from tanren.rundir import RunDirectory, run_named, sha256_of

Kind = Literal["run", "adapter", "merged", "base", "hub", "endpoint"]
BASE = "@base"
_NAMED = re.compile(r"(?P<name>[^/\\=:@]{1,60})=(?P<model>.+)", re.DOTALL)
_URL = re.compile(r"https?://", re.IGNORECASE)
_GENERIC = ("adapter", "model", "merged", "checkpoints")
_SAMPLED_BYTES = 64 << 20
"""Larger files are weights; `model.fingerprint` samples those."""


@dataclass(frozen=True, slots=True)
class NamedModel:
    """`name` is its column in tables. `target` is what `session.open_session` takes, or an
    endpoint's address. `folder`: where an artefact of ours lies. `identity` changes with everything
    about the model that may change an answer.
    """

    name: str
    kind: Kind
    target: str
    identity: str
    folder: Path | None = None
    card: Prompting | None = None
    base_fingerprint: str | None = None
    """Of the weights below an adapter, or of a plain model's own."""
    endpoint: EndpointConfig | None = None
    prompted_as: NamedModel | None = None
    """A plain base beside a model tuned from it is prompted as that one was."""

    @property
    def is_base(self) -> bool:
        return self.kind == "base"

    @property
    def is_local(self) -> bool:
        return self.endpoint is None

    @property
    def weights(self) -> str:
        """Models with the same weights share a session."""
        return str(self.folder.resolve() if self.folder is not None else self.target)

    @property
    def run(self) -> RunDirectory | None:
        """The run whose result it is."""
        if self.folder is None or self.is_base:
            return None
        parent = self.folder.parent
        inside = self.folder.name in ("adapter", "model")
        return RunDirectory(parent) if inside and (parent / "config.yaml").is_file() else None


def read_models(words: Sequence[str], *, max_new_tokens: int) -> list[NamedModel]:
    """Every word as a model, with names that differ. UserError with the faults of all words.

    `max_new_tokens` is the limit for endpoints that were given none of their own.
    """
    found: list[NamedModel] = []
    faults: list[Fault] = []
    for word in words:
        try:
            found.append(read_model(word, max_new_tokens=max_new_tokens))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError.of(*faults)
    return _distinct(_prompted_alike(found))


def read_model(word: str, *, max_new_tokens: int = 256) -> NamedModel:
    """One MODEL or NAME=MODEL."""
    named = None if Path(word).exists() or _URL.match(word) else _NAMED.fullmatch(word)
    name, target = (named["name"].strip(), named["model"]) if named else ("", word)
    model = _meant(target, max_new_tokens)
    return replace(model, name=name) if name else model


def _meant(target: str, max_new_tokens: int) -> NamedModel:
    if _URL.match(target) or target.endswith((".yaml", ".yml")):
        return _endpoint(target, max_new_tokens)
    if target.endswith(BASE):
        return base_of(_artefact(target.removesuffix(BASE), target))
    folder = artefact_of(target)
    return _plain(target) if folder is None else _tuned(target, folder)


def _artefact(target: str, word: str) -> NamedModel:
    folder = artefact_of(target)
    if folder is None:
        raise ConfigError.of(
            Fault(word, f"{target!r} before {BASE}", "a run or an adapter", "name its base itself")
        )
    return _tuned(target, folder)


def _tuned(target: str, folder: Path) -> NamedModel:
    card = Prompting.read(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    is_run = run_named(target) is not None
    kind: Kind = "run" if is_run else "adapter" if is_adapter else "merged"
    identity = _digest({"folder": _folder_digest(folder), "base": card.base_fingerprint})
    name = _last(folder.parent if is_run else folder)
    return NamedModel(name, kind, target, identity, folder, card, card.base_fingerprint)


def base_of(model: NamedModel) -> NamedModel:
    """The base below a tuned model, prompted as that one was."""
    return replace(
        model,
        name=f"{model.name}{BASE}",
        kind="base",
        identity=_digest({"base_of": model.card and _prompting(model.card, model.folder)}),
    )


def _prompting(card: Prompting, folder: Path | None) -> dict[str, Any]:
    """What decides how a base answers: its weights and storage, and the way it is prompted."""
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return {
        "base": card.base_fingerprint,
        "storage": card.storage,
        "dtype": card.dtype,
        "thinking": card.thinking,
        "date": card.date,
        "stop_ids": list(card.stop_ids),
        "files": {name: _file_digest(folder / name) for name in files} if folder else {},
    }


def _plain(target: str) -> NamedModel:
    source = locate(ModelConfig(name=target))
    identity = _digest({"folder": _folder_digest(source.path)})
    return NamedModel(
        _last(Path(target)), "hub", target, identity, base_fingerprint=source.fingerprint
    )


def _last(path: Path) -> str:
    """The folder's name, with the one above where it says little."""
    name = path.resolve().name if str(path) in (".", "..") else path.name
    return f"{path.parent.name}/{name}" if name in _GENERIC and path.parent.name else name


# --- endpoints ------------------------------------------------------------------------------------


def _endpoint(target: str, max_new_tokens: int) -> NamedModel:
    config = _at_address(target) if _URL.match(target) else load_endpoint(Path(target))
    if "max_tokens" not in config.model_fields_set:
        config = config.model_copy(update={"max_tokens": max_new_tokens})
    identity = _digest({"url": config.url, "body": config.body([])})
    return NamedModel(
        config.model, "endpoint", f"{config.base_url}#{config.model}", identity, endpoint=config
    )


def _at_address(target: str) -> EndpointConfig:
    """https://HOST/v1#MODEL. Who writes an address names its host: rows may be sent there."""
    address, _, model = target.partition("#")
    if not model:
        remedy = "write the model's name after a #, or a YAML file with base_url and model"
        raise ConfigError.of(Fault(target, "no model", "https://HOST/v1#MODEL", remedy))
    try:
        host = (urlsplit(address).hostname or "").lower()
    except ValueError:
        host = ""
    return load_endpoint(None, {"base_url": address, "model": model, "remote_host": host or None})


# --- together -------------------------------------------------------------------------------------


def _prompted_alike(models: Sequence[NamedModel]) -> list[NamedModel]:
    """A plain model that is the base of a tuned one beside it gets that one's template."""
    tuned = [m for m in models if m.card is not None]
    return [_as_its_tuned(model, tuned) for model in models]


def _as_its_tuned(model: NamedModel, tuned: Iterable[NamedModel]) -> NamedModel:
    if model.kind != "hub":
        return model
    same = [t for t in tuned if t.base_fingerprint == model.base_fingerprint]
    if not same:
        return model
    first, card = same[0], same[0].card
    assert card is not None
    plain_dtype = compute_dtype(ModelConfig(name=model.target))
    if card.storage != "nf4" and f"torch.{card.dtype}" == str(plain_dtype):
        return replace(base_of(first), name=model.name)  # the very same weights: loaded once
    identity = _digest({"own": model.identity, "as": _prompting(card, first.folder)})
    return replace(model, identity=identity, prompted_as=first)


def _distinct(models: Sequence[NamedModel]) -> list[NamedModel]:
    """Names that differ: the second `mine` is `mine (2)`."""
    seen: dict[str, int] = {}
    named = []
    for model in models:
        seen[model.name] = seen.get(model.name, 0) + 1
        count = seen[model.name]
        named.append(replace(model, name=f"{model.name} ({count})") if count > 1 else model)
    return named


# --- digests --------------------------------------------------------------------------------------


def _digest(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _folder_digest(folder: Path) -> dict[str, str]:
    """By name: every file's digest; large weights by samples."""
    found = {
        file.name: _file_digest(file)
        for file in sorted(folder.iterdir())
        if file.is_file()
        and file.suffix in (".json", ".jinja", ".safetensors", ".model")
        and file.stat().st_size <= _SAMPLED_BYTES
        and file.name != "COMPLETE.json"
    }
    if (folder / "config.json").is_file():
        found["weights"] = fingerprint(folder)
    return found


def _file_digest(file: Path) -> str:
    return sha256_of(file) if file.is_file() else ""

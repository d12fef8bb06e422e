"""What is in memory: bases, and the adapters on each. The one used longest ago makes room."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from tanren import model as weights
from tanren.artefact import Prompting
from tanren.config import ModelConfig
from tanren.engine.resident import ResidentBase
from tanren.engine.served import Served
from tanren.engine.wire import Target
from tanren.environment import versions
from tanren.errors import Fault, ModelError
from tanren.methods import METHODS, Full, Lora, Method
from tanren.rundir import sha256_of
from tanren.template import ChatRenderer

Signature = tuple[tuple[str, int, int, int], ...]
_LOADING_FAILS_WITH = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


class AllInUse(Exception):
    """Everything in memory is being used; there is room when some answers are complete."""


@dataclass(frozen=True, slots=True)
class _BaseKey:
    """`source`: the fingerprint of a base, or of whole weights with all their files' times."""

    path: str
    source: str
    storage: str
    dtype: str


class Models:
    """Opens targets. Raises ModelError for what cannot be loaded, AllInUse without room."""

    def __init__(self, *, max_bases: int, max_adapters: int) -> None:
        self._max_bases = max_bases
        self._max_adapters = max_adapters
        self._bases: dict[_BaseKey, ResidentBase] = {}
        self._served: dict[Target, tuple[Served, Signature]] = {}
        self._outdated: list[Served] = []
        self._located: dict[tuple[str, str | None], tuple[weights.Source, Signature]] = {}
        self._clock = count(1)
        self._names = count(1)

    def open(self, target: Target) -> Served:
        """The target as its files are now. It is yours while `served.users` counts you."""
        source = self._locate(target)
        signature = _signature(source.path if target.folder is None else Path(target.folder))
        known = self._served.get(target)
        if known is not None and known[1] != signature:
            self._outdated.append(known[0])
            del self._served[target]
            known = None
        if known is None:
            self.drop_outdated()
            known = self._load(target, source, signature), signature
            self._served[target] = known
        served = known[0]
        served.last_used = served.base.last_used = next(self._clock)
        return served

    def close(self, folder: str | None) -> bool:
        """Forgets what was tuned there (None: everything). False while answers still use it."""
        for target in list(self._served):
            if folder is None or target.folder == folder:
                self._outdated.append(self._served.pop(target)[0])
        self.drop_outdated()
        if folder is None and not self._outdated:
            for base in list(self._bases.values()):
                self._drop(base)
        return not any(folder in (None, served.folder) for served in self._outdated)

    def drop_outdated(self) -> None:
        """Frees what is no longer wanted and no longer used."""
        for served in [served for served in self._outdated if not served.users]:
            if served in self._outdated:  # a base takes what is left on it along
                self._outdated.remove(served)
                self._free(served)

    @property
    def bases(self) -> tuple[str, ...]:
        return tuple(base.name for base in self._bases.values())

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(str(served.folder) for served in self._adapters())

    # --- loading ----------------------------------------------------------------------------------

    def _locate(self, target: Target) -> weights.Source:
        """The base on disk; looked for anew only when its files have changed."""
        key = (target.base, target.revision)
        known = self._located.get(key)
        if known is None or known[1] != _signature(known[0].path):
            config = ModelConfig(name=target.base, revision=target.revision)
            source = weights.locate(config)
            weights.known_architecture(source)
            known = self._located[key] = source, _signature(source.path)
        return known[0]

    def _load(self, target: Target, source: weights.Source, signature: Signature) -> Served:
        try:
            if target.folder is None:
                return self._load_base(source)
            return self._load_tuned(Path(target.folder), source, signature)
        except ModelError:
            raise
        except torch.OutOfMemoryError as error:
            raise ModelError.of(_too_large(target)) from error
        except _LOADING_FAILS_WITH as error:
            raise ModelError.of(_unloadable(target, error)) from error

    def _load_base(self, source: weights.Source) -> Served:
        config = ModelConfig(name=str(source.path))
        dtype = weights.compute_dtype(config)
        self._require_room(_key(source, Lora(), dtype))
        tokenizer = weights.load_tokenizer(source, config)
        renderer = ChatRenderer(tokenizer)
        base = self._base_on(source, Lora(), config, dtype)
        return _served(base, None, None, tokenizer, renderer, (), source.fingerprint)

    def _load_tuned(self, folder: Path, source: weights.Source, signature: Signature) -> Served:
        card = Prompting.read(folder)
        config = ModelConfig.model_validate({"name": str(source.path), "dtype": card.dtype})
        dtype = weights.compute_dtype(config)
        method = METHODS[card.method["name"]].model_validate(card.method)
        whole = not (folder / "adapter_config.json").is_file()
        if whole:
            kept = torch.float32 if method.name == Full().name else dtype
            mark = sha256(repr(signature).encode()).hexdigest()
            self._require_room(_BaseKey(str(folder), mark, "whole", str(kept)))
        else:
            _require_same_base(card, source, folder)
            self._require_room(_key(source, method, dtype), adapter=True)
        tokenizer = weights.load_tokenizer_from(folder)
        renderer = ChatRenderer(tokenizer, thinking=card.thinking, date=card.date)
        if whole:
            base = self._whole(folder, kept, mark)
            return _served(base, str(folder), None, tokenizer, renderer, card.stop_ids, mark)
        self._make_room_for_adapter()
        base = self._base_on(source, method, config, dtype)
        name = f"tuned{next(self._names)}"
        plain = base.add(folder, name)
        mark = source.fingerprint + sha256_of(folder / "adapter_model.safetensors")
        served = _served(base, str(folder), name, tokenizer, renderer, card.stop_ids, mark)
        served.alone = not plain
        return served

    def _base_on(
        self, source: weights.Source, method: Method, config: ModelConfig, dtype: torch.dtype
    ) -> ResidentBase:
        key = _key(source, method, dtype)
        if key not in self._bases:
            self._make_room_for_base()
            loaded = weights.load_base(source, method, config)
            self._bases[key] = ResidentBase(source.name, loaded)
        return self._bases[key]

    def _whole(self, folder: Path, dtype: torch.dtype, mark: str) -> ResidentBase:
        key = _BaseKey(str(folder), mark, "whole", str(dtype))
        if key not in self._bases:
            self._make_room_for_base()
            loaded = weights.load_whole(folder, dtype=dtype)
            weights.disable_cpu_repacking(loaded)
            self._bases[key] = ResidentBase(str(folder), loaded)
        return self._bases[key]

    # --- making room ------------------------------------------------------------------------------

    def _adapters(self) -> Iterator[Served]:
        everything = [served for served, _ in self._served.values()] + self._outdated
        return (served for served in everything if served.adapter is not None)

    def _require_room(self, key: _BaseKey, *, adapter: bool = False) -> None:
        """Raises AllInUse. Asked before anything is read from disk: whoever waits asks at every
        step, between the tokens of the answers that are being written.
        """
        adapters = list(self._adapters())
        if adapter and len(adapters) >= self._max_adapters and all(s.users for s in adapters):
            raise AllInUse
        used = {id(served.base) for served in self._everything() if served.users}
        full = key not in self._bases and len(self._bases) >= self._max_bases
        if full and all(id(base) in used for base in self._bases.values()):
            raise AllInUse

    def _make_room_for_adapter(self) -> None:
        while len(list(self._adapters())) >= self._max_adapters:
            idle = [served for served in self._adapters() if not served.users]
            if not idle:
                raise AllInUse
            self._forget(min(idle, key=lambda served: served.last_used))

    def _make_room_for_base(self) -> None:
        used = {id(served.base) for served in self._everything() if served.users}
        while len(self._bases) >= self._max_bases:
            idle = [base for base in self._bases.values() if id(base) not in used]
            if not idle:
                raise AllInUse
            self._drop(min(idle, key=lambda base: base.last_used))

    def _everything(self) -> list[Served]:
        return [served for served, _ in self._served.values()] + self._outdated

    def _forget(self, served: Served) -> None:
        self._served = {t: pair for t, pair in self._served.items() if pair[0] is not served}
        self._outdated = [other for other in self._outdated if other is not served]
        self._free(served)

    def _free(self, served: Served) -> None:
        """Memory of what nobody uses any more. A base stays for the next adapter on it."""
        if served.adapter is not None:
            served.base.remove(served.adapter)
        elif not any(other.base is served.base for other in self._everything()):
            self._drop(served.base)

    def _drop(self, base: ResidentBase) -> None:
        self._bases = {key: other for key, other in self._bases.items() if other is not base}
        self._served = {t: pair for t, pair in self._served.items() if pair[0].base is not base}
        self._outdated = [served for served in self._outdated if served.base is not base]
        base.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _key(source: weights.Source, method: Method, dtype: torch.dtype) -> _BaseKey:
    return _BaseKey(str(source.path), source.fingerprint, method.storage, str(dtype))


def _served(
    base: ResidentBase,
    folder: str | None,
    adapter: str | None,
    tokenizer: PreTrainedTokenizerFast,
    renderer: ChatRenderer,
    stop_ids: tuple[int, ...],
    mark: str,
) -> Served:
    return Served(
        base=base,
        folder=folder,
        adapter=adapter,
        tokenizer=tokenizer,
        renderer=renderer,
        stop_ids=frozenset(stop_ids) | frozenset(renderer.facts.stop_ids) | base.eos_ids,
        fingerprint="fp_" + sha256(f"{mark} {versions()}".encode()).hexdigest()[:12],
    )


def _signature(folder: Path) -> Signature:
    """Names, sizes, times and numbers of the files that a model is made of."""
    try:
        return tuple(
            (file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino)
            for file in sorted(folder.iterdir())
            if file.suffix in (".safetensors", ".json", ".jinja")
            for stat in (file.stat(),)
        )
    except OSError as error:
        raise ModelError.of(
            Fault(
                str(folder),
                f"a folder that cannot be read ({error.strerror})",
                "a folder with weights",
                "restore it, or choose another model",
            )
        ) from None


def _require_same_base(card: Prompting, source: weights.Source, folder: Path) -> None:
    if card.base_fingerprint != source.fingerprint:
        raise ModelError.of(
            Fault(
                str(folder),
                f"an adapter of a base with fingerprint {card.base_fingerprint[:12]}",
                f"{source.fingerprint[:12]}, that of {source.name}",
                "restore the base that was tuned, or tune this one",
            )
        )


def _too_large(target: Target) -> Fault:
    return Fault(
        target.folder or target.base,
        "too little memory on the device to load it",
        "room for base, adapters and answers",
        "free memory on the device, or serve a smaller model",
    )


def _unloadable(target: Target, error: BaseException) -> Fault:
    said = " ".join(str(error).split())[:160]
    return Fault(
        target.folder or target.base,
        f"weights that could not be loaded ({type(error).__name__}: {said})",
        "a base, or what was tuned on it",
        "check the folder, or train it again",
    )

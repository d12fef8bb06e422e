"""From words on the command line to a run's settings: YAML < flags < key=value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tanren.cli.display import clean
from tanren.cli.output import mistake
from tanren.errors import ConfigError, Fault, UserError

if TYPE_CHECKING:
    from tanren.config import RunConfig

_YAML = (".yaml", ".yml")
_KEY = re.compile(r"[\w.-]*")
_SETTING = re.compile(r"(model|data|method|training|evaluation|tracking)\.\w+|seed")


@dataclass(frozen=True, slots=True)
class Items:
    """Positional words, told apart. `source` is the YAML or data file, None where there is none."""

    source: Path | None
    overrides: tuple[str, ...]

    @property
    def is_yaml(self) -> bool:
        return self.source is not None and self.source.suffix.lower() in _YAML


@dataclass(frozen=True, slots=True)
class Flags:
    """Options that stand for settings; None where an option was not given."""

    model: str | None = None
    method: str | None = None
    validation: str | None = None

    def options(self) -> dict[str, str | None]:
        """Option -> value, as a person wrote it."""
        return {"--model": self.model, "--method": self.method, "--valid": self.validation}

    def overrides(self) -> list[str]:
        """As `key=value`, for those that were given."""
        settings = {
            "model.name": self.model,
            "method.name": self.method,
            "data.validation": self.validation,
        }
        return [f"{key}={quoted(value)}" for key, value in settings.items() if value is not None]


def read_items(words: Sequence[str]) -> Items:
    """Tell files from `key=value`. Raises UserError for more than one file."""
    overrides = tuple(word for word in words if is_override(word))
    sources = [word for word in words if not is_override(word)]
    if len(sources) > 1:
        raise mistake(
            "arguments",
            " and ".join(sources),
            "one file: settings (YAML) or data (JSONL)",
            "name one of them; settings are changed with data.train=FILE or data.validation=FILE",
        )
    if sources and _SETTING.fullmatch(sources[0]) and not Path(sources[0]).exists():
        raise mistake(sources[0], "no `=`", "key.path=value", f"write {sources[0]}=VALUE")
    return Items(Path(sources[0]) if sources else None, overrides)


def is_override(word: str) -> bool:
    """`training.num_epochs=5` is; `data/a=b.jsonl` and an existing file `a=b` are not."""
    key, equals, _ = word.partition("=")
    return bool(equals) and _KEY.fullmatch(key) is not None and not Path(word).exists()


def require_values(options: Mapping[str, str | None]) -> None:
    """An option that follows where a value should stand was not meant as the value."""
    faults = [
        Fault(option, f"the option {value}", "a value", f"write a value after {option}")
        for option, value in options.items()
        if value is not None and (value.startswith("--") or not value.strip())
    ]
    if faults:
        raise UserError("an option has no value", faults)


def configuration(items: Items, flags: Flags, *, command: str) -> RunConfig:
    """The settings that a command line means.

    Raises UserError where there is no file, ConfigError with every fault in the settings.
    """
    from tanren.config import load

    if items.source is None:
        raise mistake(
            f"tanren {command}",
            "no file",
            "settings (CONFIG.yaml) or data (DATA.jsonl)",
            f"write `tanren {command} DATA.jsonl --model MODEL`",
        )
    _require_file_of_its_kind(items.source, command)
    require_text([str(items.source), *items.overrides, *flags.options().values()])
    overrides = [*flags.overrides(), *items.overrides]
    if items.is_yaml:
        return load(items.source, overrides)
    try:
        return load(None, overrides, base={"data": {"train": str(items.source)}})
    except ConfigError as error:
        raise ConfigError(error.message, [_in_options(fault) for fault in error.faults]) from None


def _require_file_of_its_kind(source: Path, command: str) -> None:
    if (source / "config.yaml").is_file():
        raise mistake(
            str(source),
            "a run",
            "settings (YAML) or data (JSONL)",
            f"go on with it: tanren train --resume {source}; or begin anew: tanren {command} "
            f"{source / 'config.yaml'}",
        )


def require_text(words: Sequence[str | None]) -> None:
    """Settings are UTF-8 text (T26); an ASCII locale hands over bytes in disguise."""
    faults = [
        Fault(
            clean(word),
            "bytes that this locale cannot read as text",
            "text",
            "set PYTHONUTF8=1 or LC_ALL=C.UTF-8",
        )
        for word in words
        if word is not None and not _is_text(word)
    ]
    if faults:
        raise UserError("a word is not text in this locale", faults)


def _is_text(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def quoted(value: str) -> str:
    """A YAML scalar that is this text, whatever it looks like (`1e3`, `null`, `a: b`)."""
    import yaml

    return str(
        yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
    ).strip()


def _in_options(fault: Fault) -> Fault:
    """Without YAML a person thinks of the model as an option."""
    if fault.where in ("model", "model.name") and fault.found == "nothing":
        return Fault(
            "--model", "nothing", "a model folder or a Hugging Face name", "add --model MODEL"
        )
    return fault

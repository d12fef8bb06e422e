"""Settings of the service (`configs/serve.yaml`): where it listens, which bases it offers under
which names, how jobs are trained and models served, and its limits.

`load_service(path, overrides)` reads and checks them as `config.load` does a run's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tanren.config import flattened, lay, layered, validate
from tanren.endpoint.checked import Strict, checked
from tanren.errors import ConfigError, Fault
from tanren.rundir import home

OPENAI_NAMES = (
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-0125",
    "gpt-3.5-turbo-0613",
    "gpt-3.5-turbo-1106",
    "gpt-4-0613",
    "gpt-4o-2024-08-06",
    "gpt-4o-mini",
    "gpt-4o-mini-2024-07-18",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano-2025-04-14",
)
"""Names that could be fine-tuned there: what unchanged scripts ask for."""


class Base(Strict):
    """One open model that jobs can start from and clients can talk to."""

    id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name that clients see: in `/v1/models` and in the names of tuned models.",
    )
    name: str = Field(
        min_length=1, description="A model folder or a Hugging Face name, as `model.name` of a run."
    )
    revision: str | None = Field(None, description="Commit, tag or branch of a hub model.")
    aliases: tuple[str, ...] = Field(
        (), strict=False, description="Other names that mean this base, such as gpt-4o-mini."
    )
    run: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the runs that jobs on this base make (method, training, ...), "
        "under what a job itself asks for.",
    )


class Serving(Strict):
    """Chat completions with bases and tuned models."""

    enabled: bool = Field(True, description="Off: the service trains only.")
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Answers that are written at the same time."
    )
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        65_536, description="Positions of prompts and answers together that a batch may fill."
    )
    max_waiting: Annotated[int, Field(ge=0, le=100_000)] = Field(
        256, description="Requests that may wait for a place; the next one is told 429."
    )
    max_adapters: Annotated[int, Field(ge=1, le=1024)] = Field(
        16, description="Tuned models kept in memory; the one used longest ago makes room."
    )
    max_bases: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="Bases kept in memory; the one used longest ago makes room."
    )
    max_tokens: Annotated[int, Field(ge=1)] = Field(
        1024, description="Tokens of an answer where a request names none."
    )
    idle_unload_seconds: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory is given back after so long without a request; null: never."
    )
    yield_to_training: Literal["when_needed", "always", "never"] = Field(
        "when_needed",
        description="When a job starts on the device that serves: when_needed unloads the models "
        "if the job does not fit beside them, always unloads them, never lets the job wait.",
    )
    threads: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Processor threads of the serving process; null: all."
    )


class Limits(Strict):
    """What one client may ask for."""

    file_bytes: Annotated[int, Field(ge=1)] = Field(512 * 2**20, description="One file.")
    upload_bytes: Annotated[int, Field(ge=1)] = Field(
        8 * 2**30, description="One upload in parts, all parts together."
    )
    part_bytes: Annotated[int, Field(ge=1)] = Field(64 * 2**20, description="One part.")
    storage_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="All files and uploads together; null: the disk."
    )
    json_bytes: Annotated[int, Field(ge=1024)] = Field(8 * 2**20, description="A JSON body.")
    requests_per_minute: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Of each key, or of each address without keys; null: no limit."
    )
    queued_jobs: Annotated[int, Field(ge=1)] = Field(
        10_000, description="Jobs that have not ended; the next one is told 429."
    )


class ServiceConfig(Strict):
    """Everything that decides what the service does."""

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Any other than loopback demands API keys.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="0: any free one.")
    folder: str | None = Field(
        None, description="Files, database and logs; null: `$TANREN_HOME/service`."
    )
    database: str | None = Field(
        None,
        description="SQLAlchemy URL, such as postgresql+psycopg://user@host/name; null: SQLite in "
        "the folder.",
    )
    organization: str = Field(
        "personal",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
        description="Third part of the names of tuned models.",
    )
    models: tuple[Base, ...] = Field(
        strict=False, description="Bases, at least one; the first is the default."
    )
    slots: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Jobs side by side; null: one a GPU, or one on the processor."
    )
    require_keys: bool = Field(
        False, description="Demand API keys on loopback too. Elsewhere they always are."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Further names by which clients may call this machine (the Host header).",
    )
    serving: Serving = Field(default_factory=Serving, description="Chat completions.")
    limits: Limits = Field(
        default_factory=Limits, description="What one client may ask for, and all together."
    )
    log_format: Literal["text", "json"] = Field("text", description="Of the server's own log.")

    @field_validator("models")
    @classmethod
    def _names_once(cls, models: tuple[Base, ...]) -> tuple[Base, ...]:
        if not models:
            raise ValueError("at least one model")
        names = [name for base in models for name in (base.id, *base.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"every id and alias once; {', '.join(twice)} stands more than once")
        return models

    @model_validator(mode="after")
    def _ids_are_no_tuned_names(self) -> ServiceConfig:
        wrong = [a for base in self.models for a in base.aliases if not _ALIAS.fullmatch(a)]
        if wrong:
            raise ValueError(
                f"aliases of letters, digits, dots and dashes that are no ft: names; found "
                f"{wrong[0]!r}"
            )
        return self

    @property
    def home(self) -> Path:
        return Path(self.folder) if self.folder else home() / "service"

    @property
    def is_loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def demands_keys(self) -> bool:
        return self.require_keys or not self.is_loopback

    def base_for(self, name: str) -> Base | None:
        """The base that an id or alias means; None: none."""
        for base in self.models:
            if name == base.id or name in base.aliases:
                return base
        return None


_ALIAS = re.compile(r"(?!ft:)[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


def load_service(
    path: Path | None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> ServiceConfig:
    """Settings from YAML (or `base`) with `key=value` laid over. Raises ConfigError with every
    fault, those of the runs' own settings in `models[].run` as well.
    """
    source = str(path) if path else ""
    config = checked(ServiceConfig, layered(path, overrides, base=base), source=source)
    faults = [
        fault
        for number, model in enumerate(config.models)
        for fault in _faults_of_run(model, f"{source} models[{number}].run".strip())
    ]
    if faults:
        raise ConfigError.of(*faults)
    return config


def _faults_of_run(model: Base, source: str) -> Sequence[Fault]:
    """What would be wrong with the runs of jobs that ask for nothing themselves."""
    values: dict[str, Any] = {
        "model": {"name": model.name, "revision": model.revision},
        "data": {"train": "the job's file", "validation": "the job's other file"},
    }
    for key, value in flattened(model.run).items():
        lay(values, key, value)
    try:
        validate(values, source=source)
    except ConfigError as error:
        return error.faults
    return ()


def service_file(given: Path | None) -> Path:
    """The settings' file: what was given, else `serve.yaml` in `$TANREN_HOME`, else
    `configs/serve.yaml` here. Raises ConfigError where there is none.
    """
    if given is not None:
        return given
    places = (home() / "serve.yaml", Path("configs") / "serve.yaml")
    for place in places:
        if place.is_file():
            return place
    raise ConfigError.of(
        Fault(
            "settings of the service",
            "none",
            " or ".join(str(place) for place in places),
            "name their file with --config",
        )
    )

"""Who answers: an endpoint, or a model or run on this machine, asked through one interface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tanren.config import read_yaml
from tanren.distill.settings import DistillConfig, LocalTeacherConfig
from tanren.endpoint import EndpointConfig, Failure, Ledger, Reply, ReplyCache
from tanren.endpoint.checked import checked
from tanren.endpoint.client import Client, opened
from tanren.errors import ConfigError, Fault

Message = Mapping[str, Any]
LOCAL_CONCURRENCY = 16


class Teacher(Protocol):
    """`stream` numbers the draws of an answer by chance: another one, another answer.

    Raises BudgetSpent, EndpointSilent, or ConfigError for what would fail every request.
    """

    name: str

    async def ask(self, messages: Sequence[Message], *, stream: int) -> Reply | Failure: ...


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """A teacher as the settings name it, before anything is opened."""

    name: str
    concurrency: int
    identity: Mapping[str, Any]
    """What its answers depend on."""
    endpoint: EndpointConfig | None = None
    local: LocalTeacherConfig | None = None

    @property
    def target(self) -> str:
        """What is loaded, of a local one."""
        assert self.local is not None
        return str(self.local.run or self.local.model)

    @asynccontextmanager
    async def opened(self, ledger: Ledger, *, date: str) -> AsyncIterator[Teacher]:
        """`date` (ISO): the day that a plain model's template is told."""
        if self.endpoint is None:
            from tanren.distill.local import LocalTeacher

            assert self.local is not None
            async with LocalTeacher.at_work(self, self.local, ledger, date) as teacher:
                yield teacher
            return
        # Equal questions have equal answers only where nothing is left to chance.
        cache = ReplyCache() if self.endpoint.temperature == 0 else None
        async with opened(self.endpoint, cache=cache, ledger=ledger) as client:
            yield EndpointTeacher(self.name, client, by_chance=cache is None)


class EndpointTeacher:
    """Rate limits, retries and the budget are the client's."""

    def __init__(self, name: str, client: Client, *, by_chance: bool) -> None:
        self.name = name
        self._client = client
        self._by_chance = by_chance

    async def ask(self, messages: Sequence[Message], *, stream: int) -> Reply | Failure:
        return await self._client.ask(messages, sample=stream if self._by_chance else 0)


def choose_teacher(config: DistillConfig, *, source: str, beside: Path) -> TeacherChoice:
    """ConfigError with what is wrong; rows leave the machine only for a host that is named."""
    where = f"{source} teacher"
    values = _values(config.teacher, beside)
    if "base_url" in values:
        return _endpoint(values, config, where)
    return _local(values, config, where)


def _values(asked: str | Mapping[str, Any], beside: Path) -> dict[str, Any]:
    if not isinstance(asked, str):
        return dict(asked)
    if asked.endswith((".yaml", ".yml")):
        near = beside / asked
        return dict(read_yaml(near if near.is_file() else Path(asked)))
    return {"model": asked}


def _endpoint(values: dict[str, Any], config: DistillConfig, where: str) -> TeacherChoice:
    budget = config.budget.model_dump(exclude_none=True)
    if budget and "budget" in values:
        remedy = "write it once, beside teacher"
        raise ConfigError.of(Fault(where, "a budget here and beside it", "one budget", remedy))
    if budget:
        values["budget"] = budget
    if config.concurrency is not None:
        values["concurrency"] = config.concurrency
    endpoint = checked(EndpointConfig, values, source=where)
    endpoint.ensure_allowed(where)
    endpoint.api_key(where)
    _ensure_fresh(config, endpoint.temperature, where)
    if config.tries > 1 and endpoint.seed is not None:
        found, remedy = f"seed {endpoint.seed} and tries: {config.tries}", "write seed: null"
        raise ConfigError.of(Fault(f"{where} seed", found, "tries that differ", remedy))
    # a server of this machine may come back on another port; it is the same teacher
    where = endpoint.url if endpoint.leaves_machine else "this machine"
    identity = {"url": where, "body": endpoint.body([])}
    return TeacherChoice(endpoint.model, endpoint.concurrency, identity, endpoint=endpoint)


def _local(values: dict[str, Any], config: DistillConfig, where: str) -> TeacherChoice:
    local = checked(LocalTeacherConfig, values, source=where)
    if (local.model is None) == (local.run is None):
        found = "both" if local.model else "neither"
        expected = "base_url and model (an endpoint), model alone, or run"
        raise ConfigError.of(Fault(where, found, expected, "name one teacher"))
    if config.budget.money is not None:
        remedy = "limit requests or tokens"
        raise ConfigError.of(
            Fault(f"{where} budget.money", "a local teacher", "an endpoint with prices", remedy)
        )
    _ensure_fresh(config, local.temperature, where)
    from tanren.distill.local import name_and_identity

    name, weights = name_and_identity(local, where)
    decoding = local.model_dump(include={"max_tokens", "temperature", "top_p", "seed"})
    identity = {"weights": weights, **decoding}
    concurrency = config.concurrency or LOCAL_CONCURRENCY
    return TeacherChoice(name, concurrency, identity, local=local)


def _ensure_fresh(config: DistillConfig, temperature: float | None, where: str) -> None:
    if config.tries > 1 and temperature == 0:
        found = f"temperature 0 and tries: {config.tries}"
        remedy = "write temperature: 0.7, or tries: 1"
        raise ConfigError.of(Fault(f"{where} temperature", found, "tries that differ", remedy))

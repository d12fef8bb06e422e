"""What a user says of an endpoint: where it is, how to ask it, and how much that may cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tanren.config import read_yaml
from tanren.endpoint.address import address_problem, host_of, is_loopback, is_own_network
from tanren.endpoint.checked import Strict, checked
from tanren.endpoint.reply import Reply, read_completion
from tanren.errors import ConfigError, Fault

Positive = Annotated[int, Field(ge=1)]
_OWN_FIELDS = ("model", "messages", "stream", "n", "temperature", "top_p", "seed")


class Prices(Strict):
    """What the endpoint's owner charges, as the user read it on their page."""

    input_per_million: Annotated[float, Field(ge=0)] = Field(
        description="Money for a million prompt tokens."
    )
    output_per_million: Annotated[float, Field(ge=0)] = Field(
        description="Money for a million tokens of replies, reasoning included."
    )
    currency: str = Field("USD", description="Shown beside amounts.")

    def of(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Money for so many tokens."""
        whole = prompt_tokens * self.input_per_million + answer_tokens * self.output_per_million
        return whole / 1_000_000


class Budget(Strict):
    """Limits over the whole evaluation, earlier starts of it included. null: no limit.

    A request is sent only if the most that it can cost still fits.
    """

    requests: Positive | None = Field(None, description="Requests sent, those sent again included.")
    tokens: Positive | None = Field(None, description="Tokens of prompts and replies together.")
    money: Annotated[float, Field(gt=0)] | None = Field(
        None, description="In the currency of `prices`, which must be given."
    )


class EndpointConfig(Strict):
    """An OpenAI-compatible chat endpoint."""

    base_url: str = Field(
        description="The address that /chat/completions is added to: http://127.0.0.1:8000/v1."
    )
    model: str = Field(min_length=1, description="Name by which the endpoint knows the model.")
    remote_host: str | None = Field(
        None,
        description="The host of base_url, once more, if it is not this machine: rows are sent to "
        "no other host. null: this machine alone.",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]{0,63}$",
        description="NAME of the environment variable that holds the key, in capitals; null: no "
        "key. The key itself stands in no file.",
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="Most requests at once."
    )
    timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0, description="Longest wait for one whole reply."
    )
    retries: Annotated[int, Field(ge=0, le=20)] = Field(
        5, description="How often a request is sent again after 429, 5xx, or a lost connection."
    )
    first_wait_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="About the wait before the first retry; it doubles with each one."
    )
    longest_wait_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0,
        description="Longest wait between two tries. An endpoint that asks for more ends the row.",
    )
    max_tokens: Positive = Field(1024, description="Most tokens of a reply, reasoning included.")
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="Name of that limit in a request; newer OpenAI models want the second.",
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        0.0, description="0: greedy. null: not sent, for models that refuse it."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="null: not sent.")
    seed: int | None = Field(None, description="null: not sent.")
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="More fields of the request's body as they are, such as reasoning_effort.",
    )
    prices: Prices | None = Field(None, description="Prices; null: money is not counted.")
    budget: Budget = Field(default_factory=Budget, description="Limits.")

    @model_validator(mode="after")
    def _consistent(self) -> EndpointConfig:
        problem = address_problem(self.base_url)
        if problem:
            raise ValueError(f"base_url: {problem}")
        if self.budget.money is not None and self.prices is None:
            raise ValueError("prices beside budget.money")
        own = [n for n in (*_OWN_FIELDS, "max_tokens", "max_completion_tokens") if n in self.extra]
        if own:
            raise ValueError(f"extra without {', '.join(own)} (they are settings of their own)")
        return self

    @property
    def host(self) -> str:
        return host_of(self.base_url)

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + "/chat/completions"

    @property
    def leaves_machine(self) -> bool:
        return not is_loopback(self.host)

    def body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The request's JSON."""
        optional = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        return {
            "model": self.model,
            "messages": messages,
            self.token_limit_field: self.max_tokens,
            **{name: value for name, value in optional.items() if value is not None},
            **self.extra,
        }

    def read(self, body: bytes, *, seconds: float, attempts: int) -> Reply:
        """An answer's body. Raises Garbled where it is none of this endpoint's. A subclass for
        another path says with `url`, `body` and `read` what goes there and what comes back.
        """
        return read_completion(body, seconds=seconds, attempts=attempts)

    def ensure_allowed(self, source: str = "endpoint") -> None:
        """ConfigError if rows would leave the machine unasked, or a key unencrypted."""
        faults = []
        if self.leaves_machine and (self.remote_host or "").lower() != self.host:
            found = repr(self.remote_host) if self.remote_host else f"the host {self.host!r}"
            remedy = f"to send your rows there, write remote_host: {self.host}"
            faults.append(Fault(f"{source} remote_host", found, "this machine", remedy))
        plain = self.base_url.lower().startswith("http://")
        if plain and self.api_key_env and not is_own_network(self.host):
            found = "http:// with a key"
            faults.append(Fault(f"{source} base_url", found, "https://", "write https://"))
        if faults:
            raise ConfigError.of(*faults)

    def api_key(self, source: str = "endpoint") -> str | None:
        """The key, from its environment variable. ConfigError if there is none, or no usable one.

        The message never shows it.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        where = f"{source} api_key_env"
        if not key:
            found = f"no value in the environment variable {self.api_key_env}"
            remedy = f"set it: export {self.api_key_env}=..."
            raise ConfigError.of(Fault(where, found, "the key there", remedy))
        if not (key.isascii() and key.isprintable() and " " not in key):
            found = f"white space or letters beyond ASCII in {self.api_key_env}"
            raise ConfigError.of(Fault(where, found, "one key", "copy the key once more"))
        return key


def load_endpoint(path: Path | None, overrides: Mapping[str, Any] | None = None) -> EndpointConfig:
    """An endpoint from a YAML file, from plain values, or from values laid over a file.

    Raises ConfigError with every fault, and where rows would leave the machine unasked.
    """
    source = str(path) if path else "endpoint"
    values = {**(read_yaml(path) if path else {}), **(overrides or {})}
    config = checked(EndpointConfig, values, source=source)
    config.ensure_allowed(source)
    return config

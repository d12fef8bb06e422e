"""An OpenAI-compatible `/v1/moderations`, asked through the same client as chat endpoints: bounded,
patient, within a budget, nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from tanren.config import read_yaml
from tanren.endpoint.checked import checked
from tanren.endpoint.reply import Garbled, Reply
from tanren.endpoint.settings import EndpointConfig, Positive


class ModerationConfig(EndpointConfig):
    """A moderation endpoint. Of the settings of answers (max_tokens, temperature, ...) none is
    sent: a verdict has no tokens.
    """

    max_tokens: Positive = Field(1, description="Not sent. A verdict counts as one token at most.")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Most messages in one request."
    )

    @model_validator(mode="after")
    def _address_without_path(self) -> ModerationConfig:
        if urlsplit(self.base_url).path.rstrip("/").endswith("/moderations"):
            raise ValueError("base_url: the address that /moderations is added to")
        return self

    @property
    def url(self) -> str:
        return self.base_url.rstrip("/") + "/moderations"

    def body(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """`messages` are the texts of one request, each as the content of a message."""
        texts = [message["content"] for message in messages]
        return {"model": self.model, "input": texts, **self.extra}

    def read(self, body: bytes, *, seconds: float, attempts: int) -> Reply:
        """The verdicts as JSON in the reply's text: a list of {"flagged", "scores"}."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise Garbled("no JSON") from None
        results = value.get("results") if isinstance(value, dict) else None
        if not isinstance(results, list):
            raise Garbled("no results")
        usage = value.get("usage")
        told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        known = isinstance(told, int) and told >= 0
        return Reply(
            text=json.dumps([_verdict(result) for result in results]),
            reasoning="",
            finish_reason="stop",
            model=str(value.get("model") or ""),
            prompt_tokens=told if known else None,
            answer_tokens=0 if known else None,
            seconds=seconds,
            attempts=attempts,
        )


def load_moderation(
    path: Path | None, overrides: Mapping[str, Any] | None = None
) -> ModerationConfig:
    """As `load_endpoint`."""
    source = str(path) if path else "moderator"
    values = {**(read_yaml(path) if path else {}), **(overrides or {})}
    config = checked(ModerationConfig, values, source=source)
    config.ensure_allowed(source)
    return config


def _verdict(result: Any) -> dict[str, Any]:
    """Raises Garbled where a result tells neither categories nor whether it is flagged."""
    if not isinstance(result, dict) or not isinstance(result.get("flagged"), bool):
        raise Garbled("a result without `flagged`")
    scores, categories = result.get("category_scores"), result.get("categories")
    scores = scores if isinstance(scores, dict) else {}
    categories = categories if isinstance(categories, dict) else {}
    numbers = {
        str(name): float(score)
        for name, score in scores.items()
        if isinstance(score, int | float) and not isinstance(score, bool)
    }
    named = [str(name) for name, says in categories.items() if says is True]
    return {"flagged": (named or ["flagged"]) if result["flagged"] else [], "scores": numbers}

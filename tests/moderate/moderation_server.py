"""What a moderation endpoint answers: every text that holds "bad" is flagged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from endpoint.chat_server import Answer


def verdict(text: str) -> dict[str, Any]:
    bad = "bad" in text
    score = 0.9 if bad else 0.4 if "dull" in text else 0.01
    return {
        "flagged": bad,
        "categories": {"violence": bad, "hate": False},
        "category_scores": {"violence": score, "hate": 0.02},
    }


def moderate(body: Mapping[str, Any]) -> Answer:
    results = [verdict(text) for text in body["input"]]
    return Answer(body={"id": "modr-1", "model": body["model"], "results": results})

"""How long to wait before a request is sent again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})


def asked_wait(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the endpoint asked for (RFC 9110, 10.2.3; `retry-after-ms` is OpenAI's).

    None where it asked for none, or in words that nobody understands.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is not None or not text:
        return seconds
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def backoff(attempt: int, first: float, longest: float, draw: random.Random) -> float:
    """Seconds before retry number `attempt` (from 1): doubling, and drawn from its upper half so
    that many clients do not come back at once.
    """
    whole = min(longest, first * 2 ** (attempt - 1))
    return whole * draw.uniform(0.5, 1.0)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None

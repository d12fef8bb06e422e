"""Names of tuned models and of their checkpoints, as OpenAI's have them."""

from __future__ import annotations

import re
import secrets
import string

_LETTERS = string.ascii_letters + string.digits
_TAIL = 8


def slug(suffix: str | None) -> str:
    """A suffix as names of models hold it: what is no ASCII letter, digit, _ or - becomes -."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", suffix or "")


def tuned_name(base: str, organization: str, suffix: str | None) -> str:
    """`ft:base:organization:suffix:Ab12Cd34`, another one each time."""
    tail = "".join(secrets.choice(_LETTERS) for _ in range(_TAIL))
    return f"ft:{base}:{organization}:{slug(suffix)}:{tail}"


def checkpoint_name(base: str, organization: str, suffix: str | None, step: int) -> str:
    """A name of its own with the step at its end."""
    return f"{tuned_name(base, organization, suffix)}:ckpt-step-{step}"

"""What every new thing in the queue is given: an id that nobody can guess, and the time."""

from __future__ import annotations

import re
import secrets
import string
import time

_LETTERS = string.ascii_lowercase + string.digits
"""Small letters alone: two ids never become one name where a disk ignores case."""
_LENGTH = 24


def new_id(prefix: str) -> str:
    """`file-` and the like, then 24 letters and digits (124 bits of chance)."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def is_id(text: str, prefix: str) -> bool:
    """Whether `new_id(prefix)` can have made it, so that it may be part of a path."""
    return re.fullmatch(re.escape(prefix) + f"[a-z0-9]{{{_LENGTH}}}", text) is not None


def now() -> int:
    """Whole seconds since 1970 (UTC)."""
    return int(time.time())

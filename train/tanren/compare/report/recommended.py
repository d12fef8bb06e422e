"""The settings that came off best, as a file for `tanren train`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tanren.compare.data import Recommendation

FILE = "recommended.yaml"
COMMAND = f"tanren train FOLDER/{FILE}"
_COLUMNS = 96


def recommended_file(found: Recommendation) -> str:
    """The settings as they are, the reasons above them."""
    lines = list(_comments(f"{found.arm}, recommended by `tanren compare`"))
    for reason in found.reasons:
        lines.extend(_comments(reason))
    lines.extend(("#", f"# {COMMAND}", ""))
    config = found.config if found.config.endswith("\n") else f"{found.config}\n"
    return "\n".join([*lines, config])


def _comments(text: str) -> Iterator[str]:
    """No sign of the text ends a comment's line, or is one that YAML refuses."""
    safe = "".join(sign if sign.isprintable() else " " for sign in text)
    for line in textwrap.wrap(" ".join(safe.split()), _COLUMNS, break_on_hyphens=False):
        yield f"# {line}"

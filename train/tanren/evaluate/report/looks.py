"""What Markdown and HTML do alike with long texts."""

from __future__ import annotations

LONGEST_TEXT = 1500
"""Characters of an answer before the rest is cut; the JSON has it whole."""


def shortened(text: str, limit: int) -> str:
    """Says how much is left out."""
    if len(text) <= limit:
        return text or "(empty)"
    return f"{text[:limit]}… ({len(text) - limit:,} more characters)"

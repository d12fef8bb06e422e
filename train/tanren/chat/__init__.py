"""One chat-format line -> a validated `Example`, or a list of all its faults.

The format is the one that OpenAI's fine-tuning accepts, whole, with `reasoning_content` as the one
extension; preference lines are those of its preference fine-tuning. `render_ready` hands an
example to a chat template.
"""

from tanren.chat.example import ROLES, Example, render_ready
from tanren.chat.preference import Preference, parse_preference, parse_preference_object
from tanren.chat.row import parse_line, parse_object

__all__ = [
    "ROLES",
    "Example",
    "Preference",
    "parse_line",
    "parse_object",
    "parse_preference",
    "parse_preference_object",
    "render_ready",
]

"""Chat templates: one renderer for every place that shows a conversation to a model."""

from __future__ import annotations

from tanren.template.engine import DEFAULT_TEMPLATE
from tanren.template.facts import TemplateFacts
from tanren.template.renderer import TANREN_DEFAULT, ChatRenderer
from tanren.template.shape import has_reasoning
from tanren.template.tokens import AddedTokens, backend_of
from tanren.template.turns import Rendered, TrainOn

__all__ = [
    "DEFAULT_TEMPLATE",
    "TANREN_DEFAULT",
    "AddedTokens",
    "ChatRenderer",
    "Rendered",
    "TemplateFacts",
    "TrainOn",
    "backend_of",
    "has_reasoning",
]

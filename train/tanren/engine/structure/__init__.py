"""Answers of a given form: JSON of a schema, and calls of tools in the model's own manner.

`ToolFormat.of` asks a chat template how the model writes calls; `ToolReader` reads them out of an
answer while it arrives; `matcher_of` makes an answer obey a constraint, token by token; `restrict`
applies the masks of many answers to their logits.
"""

from tanren.engine.structure.constraint import matcher_of
from tanren.engine.structure.matcher import Matcher, bits, masks, restrict
from tanren.engine.structure.schema import UnsupportedSchema
from tanren.engine.structure.tool_format import ToolFormat
from tanren.engine.structure.tool_reader import Call, Text, ToolReader
from tanren.engine.structure.vocabulary import Vocabulary

__all__ = [
    "Call",
    "Matcher",
    "Text",
    "ToolFormat",
    "ToolReader",
    "UnsupportedSchema",
    "Vocabulary",
    "bits",
    "masks",
    "matcher_of",
    "restrict",
]

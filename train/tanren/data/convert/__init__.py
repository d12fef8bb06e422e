"""Rows of any usual form -> chat JSONL: `convert(inputs, out, settings)`.

    sources   files, folders, data sets -> `Record` or `Broken`, row by row
    detect    which shape the rows have; shapes make conversations of them
    writing   every conversation is checked as `tanren check` would, before it is written
    ledger    rows in = rows used + rows left out, each of these with its reason

`convert` writes a file and its ledger, `convert_to` a stream, `preview` nothing.
"""

from tanren.data.convert.run import Conversion, Part, convert, convert_to, preview, refusal
from tanren.data.convert.settings import FORMATS, SHAPES, Format, Settings, ShapeName

__all__ = [
    "FORMATS",
    "SHAPES",
    "Conversion",
    "Format",
    "Part",
    "Settings",
    "ShapeName",
    "convert",
    "convert_to",
    "preview",
    "refusal",
]

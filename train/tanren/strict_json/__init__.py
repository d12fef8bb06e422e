"""JSON text -> value, with every fault that a person can mend.

The standard parser is lenient where silence hurts: the later of two equal keys wins, `NaN` is a
number, half of an emoji passes until something encodes it, and deep nesting or a very long integer
ends in a bare exception. Here each of these is a fault with a path, and a syntax error says what to
do about it.
"""

from tanren.strict_json.read import MAX_DEPTH, encodable, read_json, value_faults
from tanren.strict_json.showing import (
    child,
    close_match,
    escape,
    keys_shown,
    quoted,
    shown,
)

__all__ = [
    "MAX_DEPTH",
    "child",
    "close_match",
    "encodable",
    "escape",
    "keys_shown",
    "quoted",
    "read_json",
    "shown",
    "value_faults",
]

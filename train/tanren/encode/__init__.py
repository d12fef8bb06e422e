"""From conversations to `input_ids` and `labels`, with a ledger that accounts for every row."""

from __future__ import annotations

from tanren.encode.cache import EncodedCache, Hit, Miss, cache_key
from tanren.encode.encoded import IGNORED, Encoded, trained_text
from tanren.encode.ledger import Ledger, Lengths, LongRow, Tally
from tanren.encode.pairs import encode_pairs
from tanren.encode.rows import EncodeSettings, encode

__all__ = [
    "IGNORED",
    "EncodeSettings",
    "Encoded",
    "EncodedCache",
    "Hit",
    "Ledger",
    "Lengths",
    "LongRow",
    "Miss",
    "Tally",
    "cache_key",
    "encode",
    "encode_pairs",
    "trained_text",
]

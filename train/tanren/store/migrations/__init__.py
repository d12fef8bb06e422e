"""The database's form, step by step. `versions/` holds a file for each step, never changed again.

A change in `tables.py` needs a new file here: `versions/v0002_what.py` with the next revision, its
`down_revision`, and `upgrade` in Alembic's operations; then `HEAD` and `KNOWN` below. A test
compares what all steps together make with the tables.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
KNOWN = ("0001",)
"""Revisions in their order: one that is not here was written by newer code."""
HEAD = KNOWN[-1]

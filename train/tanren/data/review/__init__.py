"""Rows before a person's eyes, one at a time: accept, edit, reject, note. No terminal in here."""

from tanren.data.review.chosen import Chosen, chosen_by_lint, chosen_places, sampled
from tanren.data.review.files import journal_path, rejected_path
from tanren.data.review.journal import Decision, Entry, Journal
from tanren.data.review.review import Progress, Review, Row, Written

__all__ = [
    "Chosen",
    "Decision",
    "Entry",
    "Journal",
    "Progress",
    "Review",
    "Row",
    "Written",
    "chosen_by_lint",
    "chosen_places",
    "journal_path",
    "rejected_path",
    "sampled",
]

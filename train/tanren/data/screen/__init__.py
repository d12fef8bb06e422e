"""Secrets, personal data and unsafe words in chat files: found, masked in a ledger, redacted or
dropped. Nothing leaves the machine, and no ledger holds what was found.
"""

from tanren.data.screen.actions import Action, Plan, masked, read_plan
from tanren.data.screen.detect import find
from tanren.data.screen.findings import KINDS, NOTES, Finding
from tanren.data.screen.moderator import Moderator, Passage, Unjudged, Verdict
from tanren.data.screen.row import Entry, Screened, finder, screen_row
from tanren.data.screen.screen import FileReport, Screener, Target, targets
from tanren.data.screen.words import WordList, read_words, word_list

__all__ = [
    "KINDS",
    "NOTES",
    "Action",
    "Entry",
    "FileReport",
    "Finding",
    "Moderator",
    "Passage",
    "Plan",
    "Screened",
    "Screener",
    "Target",
    "Unjudged",
    "Verdict",
    "WordList",
    "find",
    "finder",
    "masked",
    "read_plan",
    "read_words",
    "screen_row",
    "targets",
    "word_list",
]

"""A comparison as files: a page to look at, Markdown, a table for spreadsheets, and the settings
that came off best.
"""

from tanren.compare.report.write import write_report

__all__ = ["write_report"]

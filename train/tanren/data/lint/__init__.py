"""What is wrong with rows that are all in order: everything that `tanren check` lets pass."""

from tanren.data.lint.catalog import RULES, SEVERITIES, Rule, Severity
from tanren.data.lint.fix import FIXED_RULES, changes_path, fix_file
from tanren.data.lint.found import Finding, Place
from tanren.data.lint.lint import LintedFile, LintReport, lint_files

__all__ = [
    "FIXED_RULES",
    "RULES",
    "SEVERITIES",
    "Finding",
    "LintReport",
    "LintedFile",
    "Place",
    "Rule",
    "Severity",
    "changes_path",
    "fix_file",
    "lint_files",
]

"""The command line: thin verbs over the rooms below. Nothing here imports torch before work begins.

`main` opens an `Output` (a page for people or one JSON document), parses, runs one command and
turns whatever was raised into an exit code. Commands read words into settings (`request`), call a
room below, and hand the answer's plain values to `Output.give` with a page that shows them.
"""

from tanren.cli.app import main

__all__ = ["main"]

"""A report as one HTML file that needs nothing else: no network, no fonts, no script but a few
lines of its own.
"""

from __future__ import annotations

from pathlib import Path

from tanren.evaluate.report.document import Document
from tanren.evaluate.report.looks import LONGEST_TEXT, shortened
from tanren.evaluate.report.plots import with_own_ids

_TEMPLATE = Path(__file__).parent / "page.html"


def page(document: Document) -> str:
    """Everything but our own drawings is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    drawings = iter(range(1_000_000))

    def drawn(svg: str) -> Markup:
        return Markup(with_own_ids(svg, f"f{next(drawings)}"))

    environment.filters["drawn"] = drawn
    environment.filters["shortened"] = lambda text: shortened(text, LONGEST_TEXT)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(document=document)

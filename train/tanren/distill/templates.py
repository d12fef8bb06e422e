"""Jinja templates of the user's settings, run in a sandbox. What rows say is never a template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tanren.errors import Fault
from tanren.strict_json import close_match

ENGINE = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def template_faults(template: str, known: Iterable[str] | None, where: str) -> Iterator[Fault]:
    """What is wrong with a template before anything is placed into it. `known` None: its
    placeholders are tried out elsewhere.
    """
    try:
        names = jinja2.meta.find_undeclared_variables(ENGINE.parse(template))
    except jinja2.TemplateSyntaxError as error:
        place = f"{where} line {error.lineno}"
        yield Fault(place, str(error.message), "a Jinja template", "mend the line")
        return
    if known is None:
        return
    allowed = sorted(known)
    for name in sorted(names - set(allowed)):
        near = close_match(name, allowed)
        remedy = f"did you mean {near!r}?" if near else "remove it"
        yield Fault(where, f"the placeholder {name!r}", f"one of {', '.join(allowed)}", remedy)


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """Raises jinja2.TemplateError (UndefinedError for a placeholder that the row lacks)."""
    return ENGINE.from_string(template).render(values)

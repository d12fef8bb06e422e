"""`tanren config` and `tanren methods`: what can be set, read from where it is declared."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from tanren.cli.display import heading, row, table, text
from tanren.cli.options import Json
from tanren.cli.output import of


def config(context: typer.Context, json: Json = False) -> None:
    """Every setting with its type, default and meaning; set it in YAML or as key.path=value."""
    from tanren.config import documentation

    settings = [
        {"path": path, "type": kind, "default": default, "description": description}
        for path, kind, default, description in documentation()
    ]

    def show(console: Console) -> None:
        made = table("setting", "type", "default", "meaning")
        for setting in settings:
            row(
                made,
                text(setting["path"], "bold"),
                setting["type"],
                setting["default"] or "(required)",
                setting["description"],
            )
        console.print(made)
        console.print("Settings of methods other than lora: tanren methods")

    of(context).give({"settings": settings}, show)


def methods(context: typer.Context, json: Json = False) -> None:
    """The tuning methods, their papers, and their settings with defaults."""
    from tanren.methods import METHODS

    known = [_method(name, METHODS[name]) for name in METHODS]

    def show(console: Console) -> None:
        for method in known:
            heading(console, f"{method['name']}  ({method['title']})")
            console.print(text(method["description"]))
            if method["paper"]:
                console.print(text(method["paper"], "dim"))
            defaults = ", ".join(f"{s['name']} {s['default']}" for s in method["settings"])
            if defaults:
                console.print(text(f"defaults: {defaults}"))

    of(context).give({"methods": known}, show)


def _method(name: str, kind: Any) -> dict[str, Any]:
    settings = [
        {
            "name": field,
            "default": list(info.default) if isinstance(info.default, tuple) else info.default,
            "description": info.description,
        }
        for field, info in kind.model_fields.items()
        if field != "name"
    ]
    description = " ".join(kind.__doc__.split())
    return {
        "name": name,
        "title": kind.title,
        "paper": kind.paper,
        "description": description,
        "settings": settings,
    }

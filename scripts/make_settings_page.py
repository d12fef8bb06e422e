"""Write docs/settings.md from the descriptions that stand beside the settings themselves.

    python scripts/make_settings_page.py            # or: make docs

A test compares the page with what this script would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tanren.config import RunConfig, documentation
from tanren.methods import METHODS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

INTRODUCTION = """\
# Settings

Written by `make docs` from the descriptions in `train/tanren/config.py` and
`train/tanren/methods.py`; the same table in the terminal: `tanren config`.

A setting is written in YAML, or behind the command as `key.path=value`, which wins:

```bash
tanren train configs/demo.yaml training.num_epochs=5 method.rank=32
```

Unknown keys and wrong values are errors, all of them shown at once. What was finally used, with
every `auto` filled in, is kept as `config.yaml` in the run's folder; that file alone reproduces the
run.
"""


def page() -> str:
    """The whole page as Markdown."""
    rows: dict[str, list[tuple[str, str, str, str]]] = {}
    for path, kind, default, text in documentation():
        if path == "method.name":
            continue  # has a table of its own
        rows.setdefault(path.partition(".")[0], []).append((path, kind, default, text))
    sections = [INTRODUCTION]
    for part, settings in rows.items():
        sections.append("\n".join([*_heading(part), "", *_table(settings)]) + "\n")
        if part == "method":
            sections.append("\n".join(_methods()) + "\n")
    return "\n".join(sections)


def _heading(part: str) -> Iterator[str]:
    yield f"## {part}"
    if part == "method":
        yield ""
        yield "The settings that low-rank methods share, with the defaults of LoRA."
        return
    inner = RunConfig.model_fields[part].annotation
    if isinstance(inner, type) and inner.__doc__ and inner is not int:
        yield ""
        yield inspect.cleandoc(inner.__doc__).split("\n")[0]


def _table(settings: list[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| Setting | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for path, kind, default, text in settings:
        shown = f"`{default.strip()}`" if default.strip() else "must be given"
        yield f"| `{path}` | {_cell(kind)} | {_cell(shown)} | {_cell(_for_users(text))} |"


def _methods() -> Iterator[str]:
    """Each method with what it sets differently from LoRA."""
    yield "| `method.name` | Method | What it does | Differs from LoRA in | Paper |"
    yield "|---|---|---|---|---|"
    shared = _defaults("lora")
    for name, method in METHODS.items():
        own = _defaults(name)
        changed = [
            f"`{key}: {_plain(value)}`"
            for key, value in own.items()
            if key != "name" and (key not in shared or shared[key] != value)
        ]
        differs = ", ".join(changed)
        if shared.keys() - own.keys():
            differs = "has no rank, alpha or layers to choose"
        summary = inspect.cleandoc(method.__doc__ or "").split("\n\n")[0]
        does = _cell(summary.partition(": ")[2])
        yield f"| `{name}` | {method.title} | {does} | {differs or '-'} | {method.paper or '-'} |"


def _defaults(name: str) -> dict[str, Any]:
    return {key: field.default for key, field in METHODS[name].model_fields.items()}


def _plain(value: Any) -> str:
    return yaml.safe_dump(value).split("\n")[0]


def _for_users(text: str) -> str:
    """The description without the numbers by which the developers cite their traps."""
    return re.sub(r"\s*\(T\d+\)", "", text)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")

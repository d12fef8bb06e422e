"""Write the pages of settings (docs/settings.md, compare-settings.md, distill-settings.md and
serve-settings.md) and docs/lint-rules.md from the descriptions that stand beside the settings and
rules themselves.

    python scripts/make_settings_page.py            # or: make docs

A test compares the pages with what this script would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tanren.compare.settings import CompareConfig
from tanren.config import RunConfig, documentation
from tanren.data.lint.catalog import RULES, SEVERITIES
from tanren.distill.constraints import KINDS
from tanren.distill.settings import DistillConfig, IdeasConfig, LocalTeacherConfig, SourceConfig
from tanren.endpoint import EndpointConfig
from tanren.endpoint.settings import Budget, Prices
from tanren.methods import METHODS
from tanren.store.settings import Base, Limits, ServiceConfig, Serving

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "settings.md"
COMPARE_PAGE = DOCS / "compare-settings.md"
DISTILL_PAGE = DOCS / "distill-settings.md"
SERVE_PAGE = DOCS / "serve-settings.md"
RULES_PAGE = DOCS / "lint-rules.md"

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

COMPARE_INTRODUCTION = """\
# Settings of a comparison

Written by `make docs` from the descriptions in `train/tanren/compare/settings.py`. What each of
them is for: [compare.md](compare.md); the settings of a run, which stand in `base`, in the arms and
in the grid: [settings.md](settings.md).

```yaml
base: mine.yaml                     # or the settings themselves
arms:
  lora: {method: lora}
  dora: {method: dora}
seeds: 3
search: {trials: 5}
```

Unknown keys and wrong values are errors, all of them shown at once. Words behind `tanren compare`
win over the file. What was finally used is kept as `comparison.yaml` in the comparison's folder;
that file alone starts it again.
"""

DISTILL_INTRODUCTION = """\
# Settings of a distillation

Written by `make docs` from the descriptions in `train/tanren/distill/` and
`train/tanren/endpoint/`. What each of them is for: [distill.md](distill.md).

```yaml
source: texts/                      # a folder of .txt and .md files, or JSONL
user: "Summarise this text: {{ text }}"
teacher: {base_url: "http://127.0.0.1:8000/v1", model: big}
constraints:
  - length: {unit: characters, target: 100, tolerance: 5}
repairs: 4
out: distilled/summaries
```

Unknown keys and wrong values are errors with their place and remedy.
"""

SERVE_INTRODUCTION = """\
# Settings of the service

Written by `make docs` from the descriptions in `train/tanren/store/settings.py`. A file that runs
as it is: `configs/serve.yaml`; the settings of a run, which stand in `models[].run`:
[settings.md](settings.md).

```yaml
models:
  - id: qwen3-0.6b                  # what clients see
    name: Qwen/Qwen3-0.6B
    aliases: [gpt-4o-mini, gpt-3.5-turbo]
    run: {method: {name: lora, rank: 16}}
limits: {file_bytes: 536870912}
```

Unknown keys and wrong values are errors, all of them shown at once. `key.path=value` behind the
command wins over the file.

What the service keeps lies in `folder`: `service.db` (unless `database` names another one),
`files/` and `uploads/`, each file under its id. What was answered is on the disk. Deleting a tuned
model takes its name away: its run directory and its checkpoints stay.
"""

RULES_INTRODUCTION = """\
# What `tanren data lint` looks for

Written by `make docs` from `train/tanren/data/lint/catalog.py`. How to use it: [data.md](data.md).

An error is nearly always a mistake, a warning mostly one, a note something to look at. Only errors
and warnings end `--strict` with exit code 1. `--skip RULE` leaves a rule out.
"""


def page() -> str:
    """The whole page of a run's settings as Markdown."""
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


# --- the settings of a comparison -----------------------------------------------------------------


def compare_page() -> str:
    """The whole page of a comparison's settings as Markdown: its own, then each part's."""
    parts = {name: _part(field) for name, field in CompareConfig.model_fields.items()}
    sections = [COMPARE_INTRODUCTION, _fields("The comparison", CompareConfig, "")]
    sections += [_fields(name, part, f"{name}.") for name, part in parts.items() if part]
    return "\n".join(sections)


# --- the settings of a distillation, the rules of lint --------------------------------------------


def distill_page() -> str:
    """The whole page of a distillation's settings: its own, its parts', and each constraint's."""
    parts: tuple[tuple[str, type[BaseModel], str], ...] = (
        ("source", SourceConfig, "source."),
        ("teacher: an endpoint", EndpointConfig, "teacher."),
        ("teacher: its prices", Prices, "teacher.prices."),
        ("teacher: a model or a run on this machine", LocalTeacherConfig, "teacher."),
        ("budget", Budget, "budget."),
        ("ideas", IdeasConfig, "ideas."),
    )
    sections = [DISTILL_INTRODUCTION, _fields("The distillation", DistillConfig, "")]
    sections += [_fields(*part) for part in parts]
    sections += [_fields(f"constraint: {kind}", model, "") for kind, model in KINDS.items()]
    return "\n".join(sections)


def serve_page() -> str:
    """The whole page of the service's settings: its own, a base's, serving and limits."""
    parts: tuple[tuple[str, type[BaseModel], str], ...] = (
        ("The service", ServiceConfig, ""),
        ("models: one of them", Base, "models[]."),
        ("serving", Serving, "serving."),
        ("limits", Limits, "limits."),
    )
    return "\n".join([SERVE_INTRODUCTION, *(_fields(*part) for part in parts)])


def rules_page() -> str:
    """The rules by severity, the worst first, in the catalog's order."""
    sections = [RULES_INTRODUCTION]
    for severity in SEVERITIES:
        rows = [rule for rule in RULES.values() if rule.severity == severity]
        lines = [f"## {severity.capitalize()}s", "", "| Rule | Finds | What to do | `--fix` |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| `{rule.name}` | {_cell(rule.finds)} | {_cell(rule.remedy)} "
            f"| {'yes' if rule.fixed else ''} |"
            for rule in rows
        ]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


# --- a table of fields ----------------------------------------------------------------------------


def _fields(title: str, model: type[BaseModel], prefix: str) -> str:
    rows = [
        (f"{prefix}{name}", _kind(field.annotation), _default(field), field.description or "")
        for name, field in model.model_fields.items()
    ]
    said = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    return "\n".join([f"## {title}", "", said, "", *_table(rows)]) + "\n"


def _default(field: FieldInfo) -> str:
    """As one would write it; `{}` for a part that is there anyway, with its own defaults."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "{}"
    written = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(written, default_flow_style=True).split("\n")[0]


def _kind(annotation: Any) -> str:
    """A type in words; null goes without saying, as the meaning tells what it stands for."""
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    if (origin := get_origin(annotation)) in (dict, tuple):
        return {dict: "mapping", tuple: "list"}[origin]
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    kinds = [_kind(inner) for inner in get_args(annotation) if _is_type(inner)]
    return "|".join(dict.fromkeys(kind for kind in kinds if kind != "NoneType"))


def _is_type(annotation: Any) -> bool:
    """Not the bounds that stand beside a type in Annotated."""
    return isinstance(annotation, type) or get_origin(annotation) is not None


def _part(field: FieldInfo) -> type[BaseModel] | None:
    """The settings within a field, where it has any."""
    found = [field.annotation, *get_args(field.annotation)]
    return next((t for t in found if isinstance(t, type) and issubclass(t, BaseModel)), None)


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    pages = (
        (PAGE, page()),
        (COMPARE_PAGE, compare_page()),
        (DISTILL_PAGE, distill_page()),
        (SERVE_PAGE, serve_page()),
        (RULES_PAGE, rules_page()),
    )
    for path, text in pages:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")

"""The licence of a base model: read from what lies beside it, never guessed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tanren.rundir import storage_errors

UNKNOWN = "unknown"
"""What the Hub calls a licence that nobody stated."""

_LICENCE_NAMES = re.compile(r"(licen[cs]e|copying|notice|use_policy|usage_policy)", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LLAMA = re.compile(r"LLAMA (\d(?:\.\d)?) COMMUNITY LICENSE AGREEMENT", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence as the Hub writes it.

    identifier   `apache-2.0`; `other` for one that has a text and no identifier; `unknown`
    name, link   of a licence that is `other`, or None
    source       where this was read, in words for a person
    files        names of the licence's texts in the base's folder
    """

    identifier: str
    source: str
    name: str | None = None
    link: str | None = None
    files: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        return self.identifier != UNKNOWN


def licence_of(base: Path | None) -> Licence:
    """The licence of a base model's folder: its README's front matter, its config.json, or a
    licence text that begins as only that licence does.
    """
    if base is None or not base.is_dir():
        return Licence(UNKNOWN, "the base's files are not here")
    texts = licence_files(base)
    names = tuple(path.name for path in texts)
    stated = front_matter(_text(base / "README.md")) or {}
    identifier = _identifier(stated.get("license"))
    if identifier is not None:
        name, link = (_identifier(stated.get(key)) for key in ("license_name", "license_link"))
        return Licence(identifier, "the base's README.md", name, link, names)
    identifier = _identifier(_config(base).get("license"))
    if identifier is not None:
        return Licence(identifier, "the base's config.json", files=names)
    for path in texts:
        identifier = _recognised(_text(path))
        if identifier is not None:
            return Licence(identifier, f"the base's {path.name}", files=names)
    if texts:
        name = texts[0].name
        return Licence("other", f"the base's {name}", "licence-of-the-base", name, names)
    return Licence(UNKNOWN, "the base states none in README.md, config.json or a LICENSE file")


def copy_licence(base: Path, out: Path) -> tuple[str, ...]:
    """Copy the texts of the base's licence, notices and use policies; returns their names."""
    texts = licence_files(base)
    with storage_errors(out):
        for path in texts:
            shutil.copyfile(path, out / path.name)
    return tuple(path.name for path in texts)


def licence_files(folder: Path) -> tuple[Path, ...]:
    """LICENSE, NOTICE, USE_POLICY and the like at the top of a folder, licences first."""
    found = [p for p in folder.iterdir() if p.is_file() and _LICENCE_NAMES.match(p.name)]
    return tuple(sorted(found, key=lambda p: (not p.name.lower().startswith("licen"), p.name)))


def languages_of(base: Path | None) -> tuple[str, ...]:
    """Language codes that the base's README states; empty where it states none."""
    stated = None if base is None else (front_matter(_text(base / "README.md")) or {})
    found = (stated or {}).get("language")
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(_codes(listed))


def _codes(listed: list[Any]) -> Iterator[str]:
    for code in listed:
        if code is False:  # an unquoted `no` is Norwegian to the Hub and false to YAML
            yield "no"
        elif isinstance(code, str):
            yield code


def front_matter(text: str) -> dict[str, Any] | None:
    """The YAML between `---` lines at a README's top; None where there is none or it is broken."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return None
    try:
        values = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        return None
    return values if isinstance(values, dict) else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _config(base: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(_text(base / "config.json") or "{}")
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _identifier(value: object) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.strip() if isinstance(value, str) and value.strip() else None


def _recognised(text: str) -> str | None:
    """Identifier of a licence by its first two lines: a changed title is another licence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
    first, second = [*lines, "", ""][:2]
    if first == "Apache License" and second.startswith("Version 2.0"):
        return "apache-2.0"
    if first in ("MIT License", "The MIT License (MIT)") and "free of charge" in text:
        return "mit"
    llama = _LLAMA.match(first)
    return f"llama{llama.group(1)}" if llama else None

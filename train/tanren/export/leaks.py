"""What must not leave this machine by mistake: its paths, and keys that open something."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tanren.errors import Fault

# A vocabulary holds pieces of paths by nature; nobody's path gets into it by exporting.
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt")
TEXTS = (".json", ".jsonl", ".md", ".txt", ".jinja", ".yaml", ".yml", ".toml", ".py", ".sh", "")
LARGEST_TEXT_BYTES = 32_000_000
HEADER_BYTES = 65_536

# Not after a letter or a dot, so that addresses of the web and `a/b` are none.
_PATH = re.compile(r"(?<![A-Za-z0-9_.~/\\-])(?:file://)?(/(?!/)[^\s\"'`<>|()\[\]{},;:*?\\]+)")
_WINDOWS_PATH = re.compile(r"(?<![A-Za-z])[A-Za-z]:(?:\\{1,2}|/)Users(?:\\{1,2}|/)[^\s\"'\\/]+")
_HOMES = ("home", "Users", "root")
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "dev", "proc", "sys", "etc")
_SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_(?:oauth_)?[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{24,}"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def leaks(folder: Path, names: Sequence[str]) -> Iterator[Fault]:
    """Every path of this machine and every key in the named files; each is told once a file.

    Text files are read whole but for vocabularies; of all others (weights) the first 64 KiB, where
    a format keeps its metadata, are searched for this user's own folders.
    """
    for name in names:
        path = folder / name
        if path.name in VOCABULARIES:
            continue
        if path.suffix.lower() in TEXTS and path.stat().st_size <= LARGEST_TEXT_BYTES:
            yield from _in_text(name, path.read_text(encoding="utf-8", errors="replace"))
        else:
            yield from _in_header(name, path, folder)


def _in_text(name: str, text: str) -> Iterator[Fault]:
    told: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        for found, what, remedy in _on_line(line):
            if found not in told:
                told.add(found)
                yield Fault(f"{name}:{number}", what, "nothing private", remedy)


def _on_line(line: str) -> Iterator[tuple[str, str, str]]:
    """(what was found, in words, remedy) for everything private on a line."""
    for path in local_paths(line):
        yield (
            path,
            f"{path!r}, a path of this machine",
            "write a public name in its place (a base model: export again with --base-name NAME "
            "--overwrite)",
        )
    for title, pattern in _SECRETS.items():
        for match in pattern.finditer(line):
            shown = f"{match.group()[:4]}…"
            yield match.group(), f"{title} ({shown})", "take it out, and revoke it if it is real"


def local_paths(line: str) -> Iterator[str]:
    """Absolute paths that lie on this machine, or in somebody's home on any machine."""
    for match in _PATH.finditer(line):
        path = match.group(1).rstrip(".!/")
        top, _, rest = path[1:].partition("/")
        if rest and (top in _HOMES or (top not in _SYSTEM and os.path.isdir(f"/{top}"))):
            yield path
    yield from (match.group() for match in _WINDOWS_PATH.finditer(line))


def _in_header(name: str, path: Path, folder: Path) -> Iterator[Fault]:
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    for place in _own_places(folder):
        if f"{place}{os.sep}".encode() in header:
            yield Fault(
                name,
                f"'{place}', a folder of this machine, in the file's metadata",
                "nothing private",
                "export again from a base that is named by its Hub name",
            )


def _own_places(folder: Path) -> list[Path]:
    places = {Path.home(), Path.cwd(), folder.resolve().parent}
    return sorted(place for place in places if len(place.parts) > 1)

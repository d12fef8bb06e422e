"""A row in the user's own editor, and back."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tanren.config import read_value, read_yaml
from tanren.errors import ConfigError, Fault
from tanren.strict_json import read_json

VARIABLES = ("VISUAL", "EDITOR")


class EditorFault(Exception):
    """The editor could not be used; `fault` says how."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(str(fault))


@dataclass(frozen=True, slots=True)
class Sheet:
    """A row as text to edit. YAML, in which long texts are readable, wherever that says exactly
    the same; else JSON.
    """

    text: str
    suffix: str

    @classmethod
    def of(cls, row: Any) -> Sheet:
        """`row` is an object, or the text of a line that is no JSON."""
        if isinstance(row, str):
            return cls(row + "\n", ".json")
        written = _yaml(row)
        if written is not None:
            return cls(written, ".yaml")
        return cls(json.dumps(row, ensure_ascii=False, indent=2) + "\n", ".json")

    def read(self, place: str) -> tuple[Any, list[Fault]]:
        """The value, and what is wrong with the text; `place` names the row in faults."""
        if self.suffix == ".json":
            return read_json(self.text, place)
        value = read_value(self.text)
        if not isinstance(value, str):
            return value, []
        return value, [
            Fault(f"{place}, in the editor{mark}", fault.found, fault.expected, fault.remedy)
            for fault in _syntax_faults(self.text)
            if (mark := fault.where.partition(".yaml")[2])
        ]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks."""


def _represent(dumper: yaml.SafeDumper, words: str) -> yaml.ScalarNode:
    style = "|" if "\n" in words else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", words, style=style)


_Dumper.add_representer(str, _represent)


def _yaml(row: Any) -> str | None:
    """The row as YAML; None where reading it again gives anything else."""
    if not isinstance(row, dict):
        return None
    try:
        written = yaml.dump(
            row, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=float("inf")
        )
        return written if read_value(written) == row else None
    except yaml.YAMLError:
        return None


def _syntax_faults(words: str) -> Sequence[Fault]:
    """Of text that is no YAML: each has a line number behind its file name."""
    with tempfile.TemporaryDirectory(prefix="tanren-row-") as folder:
        path = Path(folder) / "row.yaml"
        path.write_text(words, encoding="utf-8", newline="")
        try:
            read_yaml(path)
        except ConfigError as error:
            return error.faults
    return ()


def edited(sheet: Sheet) -> Sheet:
    """What the user's editor made of it. Raises EditorFault."""
    command = editor()
    with tempfile.TemporaryDirectory(prefix="tanren-row-") as folder:
        path = Path(folder) / f"row{sheet.suffix}"
        path.write_text(sheet.text, encoding="utf-8", newline="")
        try:
            ended = subprocess.run([*command, str(path)], check=False)
            if ended.returncode != 0:
                raise EditorFault(
                    Fault(
                        shlex.join(command),
                        f"exit code {ended.returncode}",
                        "an editor that ends with 0",
                        "edit again; nothing was taken over",
                    )
                )
            words = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            remedy = "set EDITOR to a program that waits until the file is closed"
            fault = Fault(shlex.join(command), str(error), "an editor", remedy)
            raise EditorFault(fault) from None
        except UnicodeDecodeError:
            fault = Fault("the edited row", "bytes that are not UTF-8", "UTF-8", "save it as UTF-8")
            raise EditorFault(fault) from None
    return Sheet(words, sheet.suffix)


def editor() -> list[str]:
    """$VISUAL, else $EDITOR, else vi or notepad. Raises EditorFault."""
    for name in VARIABLES:
        words = os.environ.get(name, "").strip()
        if not words:
            continue
        try:
            return shlex.split(words)
        except ValueError as error:
            fault = Fault(f"${name}", f"{words} ({error})", "a command", "correct its quotes")
            raise EditorFault(fault) from None
    for name in ("vi", "nano", "notepad"):
        if shutil.which(name):
            return [name]
    fault = Fault("$EDITOR", "nothing, and no vi or nano", "an editor", "set EDITOR, such as nano")
    raise EditorFault(fault)

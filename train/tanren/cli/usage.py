"""Mistakes of the command line itself, in the four parts of every fault, with near names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tanren.errors import Fault, UserError

_UNKNOWN_OPTION = re.compile(r"No such option:? '?(?P<name>-{1,2}[^\s'.]+)")
_UNKNOWN_COMMAND = re.compile(r"No such command '(?P<name>[^']*)'")
_NO_VALUE = re.compile(r"Option '(?P<name>[^']+)' requires an argument")
_MISSING = re.compile(r"Missing (?P<kind>\w+) '?(?P<name>[^'.]+)'?")
_EXTRA = re.compile(r"Got unexpected extra argument(?:\(s\)|s)? \((?P<name>.*)\)")
_WRONG = re.compile(r"Invalid value for (?P<name>[^:]+): (?P<why>.*)", re.DOTALL)


def usage_error(message: str, context: Any, words: Sequence[str]) -> UserError:
    """From the parser's message, its context (None where it has none) and the command line."""
    if context is not None:
        where = context.command_path
    else:
        where = " ".join(["tanren", *(word for word in words[:1] if word.isalpha())])
    return UserError("the command line is not understood", [_fault(message, where, context)])


def _fault(message: str, where: str, context: Any) -> Fault:
    see_help = f"see {where} --help"
    if found := _UNKNOWN_OPTION.search(message):
        return _unknown_option(found["name"], where, context)
    if found := _UNKNOWN_COMMAND.search(message):
        return _unknown_command(found["name"], where, _commands(context))
    if found := _NO_VALUE.search(message):
        return Fault(where, f"{found['name']} without a value", "a value after it", "add it")
    if found := _EXTRA.search(message):
        return Fault(where, f"also {found['name']}", "fewer arguments", see_help)
    if found := _WRONG.search(message):
        option, why = found["name"].strip("'"), found["why"].strip().rstrip(".")
        return Fault(f"{where} {option}", f"a wrong value ({why})", "one of its kind", see_help)
    if found := _MISSING.search(message):
        return Fault(where, f"no {found['name'].strip()}", "one", see_help)
    told = message.strip().rstrip(".").replace("\n", " ") or "nothing"
    return Fault(where, told, "arguments as its help shows", see_help)


def _unknown_option(name: str, where: str, context: Any) -> Fault:
    known = [option for parameter in _parameters(context) for option in parameter.opts]
    near = difflib.get_close_matches(name, [o for o in known if o.startswith("-")], n=1)
    if near:
        remedy = f"did you mean {near[0]}?"
    elif setting := _setting_named(name.lstrip("-")):
        remedy = f"write {setting}=VALUE (a setting, see `tanren config`)"
    else:
        remedy = f"see {where} --help"
    return Fault(where, f"no option {name}", "one of its options", remedy)


def _setting_named(option: str) -> str | None:
    """`--rank` and `--num-epochs` are settings: method.rank, training.num_epochs."""
    from tanren.config import documentation

    wanted = option.replace("-", "_")
    return next((path for path, *_ in documentation() if path.split(".")[-1] == wanted), None)


def _unknown_command(name: str, where: str, known: Sequence[str]) -> Fault:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    if near:
        remedy = f"did you mean `{where} {near[0]}`?"
    elif Path(name).exists():
        remedy = f"write `tanren check {name}` or `tanren train {name}`"
    else:
        remedy = f"see {where} --help"
    return Fault(where, f"no command {name!r}", "one of " + ", ".join(known), remedy)


def _parameters(context: Any) -> Sequence[Any]:
    return context.command.params if context is not None else ()


def _commands(context: Any) -> list[str]:
    return list(context.command.commands) if context is not None else []

"""From a list in YAML to constraints, with every fault at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.distill.constraints.base import Constraint
from tanren.distill.constraints.code import PythonCode
from tanren.distill.constraints.content import (
    Language,
    MustContain,
    MustNotContain,
    Pattern,
    texts_of,
)
from tanren.distill.constraints.form import JsonSchema
from tanren.distill.constraints.judge import JudgeFacts, JudgeScore, read_judge
from tanren.distill.constraints.size import Bullets, Length
from tanren.distill.templates import template_faults
from tanren.endpoint.checked import checked
from tanren.errors import ConfigError, Fault, UserError
from tanren.strict_json import close_match, shown

KINDS: Mapping[str, type[Constraint]] = {
    "length": Length,
    "bullets": Bullets,
    "regex": Pattern,
    "json_schema": JsonSchema,
    "language": Language,
    "must_contain": MustContain,
    "must_not_contain": MustNotContain,
    "python": PythonCode,
    "judge": JudgeScore,
}
_SHORT: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "regex": lambda value: {"pattern": value},
    "json_schema": lambda value: {"file": value},
    "language": lambda value: {"language": value},
    "must_contain": lambda value: {"texts": texts_of(value)},
    "must_not_contain": lambda value: {"texts": texts_of(value)},
    "python": lambda value: {"function": value},
}
"""What a constraint means whose settings are a text or a list."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """`plain` are measured here, in order; `judges` are asked after that."""

    plain: tuple[Constraint, ...] = ()
    judges: tuple[JudgeFacts, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(c.name for c in self.plain), *(j.constraint.name for j in self.judges))

    @property
    def length(self) -> Length | None:
        """The first one, in whose unit the summary counts."""
        return next((c for c in self.plain if isinstance(c, Length)), None)

    def identity(self) -> list[Any]:
        """What verdicts depend on."""
        settings: list[Any] = []
        for one in self.plain:
            values = one.model_dump(mode="json")
            if isinstance(one, JsonSchema):
                values = {"schema": one.schema_value(), "words": one.words}
            settings.append({one.name: values})
        for judge in self.judges:
            own = judge.constraint
            limit = {"at_least": own.at_least, "criterion": own.criterion, "words": own.words}
            settings.append({own.name: {**judge.identity, **limit}})
        return settings


def read_constraints(
    listed: Sequence[Mapping[str, Any]], *, source: str, beside: Path, allow_python: bool = False
) -> Constraints:
    """`beside`: the folder in which files are looked for first."""
    plain: list[Constraint] = []
    judges: list[JudgeFacts] = []
    faults: list[Fault] = []
    for index, values in enumerate(listed):
        where = f"{source} constraints[{index}]"
        try:
            one = _read(values, where, beside)
            if isinstance(one, PythonCode) and not allow_python:
                raise ConfigError.of(_not_allowed(where))
            if isinstance(one, JudgeScore):
                judges.append(read_judge(one, where))
                continue
            if isinstance(one, PythonCode | JsonSchema):
                one.prepare()
            plain.append(one)
        except UserError as error:
            faults += error.faults
    found = Constraints(tuple(plain), tuple(judges))
    for name, times in Counter(found.names).items():
        if times > 1 and not name.startswith(("regex", "python", "must")):
            remedy = "join them into one"
            faults.append(Fault(f"{source} constraints", f"{name} {times} times", "once", remedy))
    if faults:
        raise ConfigError.of(*faults)
    return found


def _read(values: Mapping[str, Any], where: str, beside: Path) -> Constraint:
    if len(values) != 1:
        expected, remedy = "one key, the constraint's kind", "write `- length: {max: 100}`"
        found = f"the keys {', '.join(map(str, values)) or '(none)'}"
        raise ConfigError.of(Fault(where, found, expected, remedy))
    ((kind, inner),) = values.items()
    if kind not in KINDS:
        near = close_match(str(kind), list(KINDS))
        remedy = f"did you mean {near!r}?" if near else "use one of these"
        raise ConfigError.of(Fault(where, shown(kind), "one of " + ", ".join(KINDS), remedy))
    where = f"{where}.{kind}"
    if not isinstance(inner, Mapping):
        if kind not in _SHORT:
            raise ConfigError.of(Fault(where, shown(inner), "settings", "write {name: value}"))
        inner = _SHORT[kind](inner)
    one = checked(KINDS[kind], _located(kind, dict(inner), beside), source=where)
    faults = list(template_faults(one.words or "", None, f"{where}.words"))
    if faults:
        raise ConfigError.of(*faults)
    return one


def _located(kind: str, values: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Files are looked for beside the settings first."""
    for key in ("file",) if kind != "length" else ("tokenizer",):
        name = values.get(key)
        if isinstance(name, str) and (beside / name).exists():
            values[key] = str(beside / name)
    function = values.get("function")
    if kind == "python" and isinstance(function, str):
        module, colon, name = function.rpartition(":")
        if module.endswith(".py") and (beside / module).is_file():
            values["function"] = f"{beside / module}{colon}{name}"
    return values


def _not_allowed(where: str) -> Fault:
    remedy = "give --allow-python if you trust this file"
    return Fault(f"{where}.python", "a function to run", "none unless it is allowed", remedy)

"""Small Go templates at random, over data with every kind of value, right and wrong ones alike."""

from __future__ import annotations

import random
from typing import Any

DATA: dict[str, Any] = {
    "Name": "Aoi <3 & 水\u3000x",
    "Empty": "",
    "Zero": 0,
    "Seven": 7,
    "Half": 0.5,
    "Big": 1e21,
    "Small": 0.000001,
    "Yes": True,
    "No": False,
    "Nil": None,
    "List": ["a", "", "ccc"],
    "Mixed": [1, "b", None, 2.5, True, [1, 2]],
    "None_": [],
    "Map": {"one": 1, "two": "zwei", "nil": None, "list": [1, 2], "map": {"deep": "d"}},
    "Bare": {},
}

_KINDS = {
    "string": [
        "$.Name",
        "$.Empty",
        "$.Map.two",
        "$.Name",
        '"x"',
        '""',
        '"a\\tb\\u00e9"',
        "`raw {{`",
    ],
    "number": [
        "$.Zero",
        "$.Seven",
        "$.Map.one",
        "0",
        "1",
        "2",
        "-3",
        "'a'",
        "0x1F",
        "(len $.Name)",
    ],
    "float": ["$.Half", "2.5", "1e3", "$.Big", "$.Small"],
    "bool": ["$.Yes", "$.No", "true", "false", "(not $.Name)"],
    "list": ["$.List", "$.Mixed", "$.None_"],
    "map": ["$.Map", "$.Bare"],
    "nil": ["$.Nil", "$.Gone", "$.Map.gone", "$.Map.nil"],
    "wrong": [".Gone.Deeper", ".Nil.Deeper", ".Name.Wrong", "$", "."],
}
_TEXTS = ["a", " ", "\n", " b\n\n c ", "{ ", "}", "{ { ", "水", '"', "-", ""]


class Snippets:
    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def template(self) -> str:
        return "".join(self._node(0) for _ in range(self._dice.randint(1, 4)))

    def _node(self, depth: int) -> str:
        choices = [self._text, self._action]
        if depth < 3:
            choices += [self._branch, self._branch, self._set, self._range]
        return self._dice.choice(choices)(depth)

    def _nodes(self, depth: int) -> str:
        return "".join(self._node(depth + 1) for _ in range(self._dice.randint(0, 3)))

    def _text(self, depth: int) -> str:
        return self._dice.choice(_TEXTS)

    def _braced(self, inside: str) -> str:
        left = self._dice.choice(["{{", "{{ ", "{{- ", "{{-\n"])
        right = self._dice.choice(["}}", " }}", " -}}", "\t-}}"])
        return left + inside + right

    def _action(self, depth: int) -> str:
        return self._braced(self._pipeline(depth))

    def _branch(self, depth: int) -> str:
        word = self._dice.choice(["if", "with"])
        text = self._braced(f"{word} {self._pipeline(depth)}") + self._nodes(depth)
        if word == "if" and self._dice.random() < 0.3:
            text += self._braced(f"else if {self._pipeline(depth)}") + self._nodes(depth)
        if self._dice.random() < 0.5:
            text += self._braced("else") + self._nodes(depth)
        return text + self._braced("end")

    def _set(self, depth: int) -> str:
        name = self._dice.choice(["$x", "$y"])
        first = self._braced(f"{name} := {self._pipeline(depth)}")
        again = self._braced(f"{name} = {self._pipeline(depth)}")
        inside = self._braced(f"if {self._pipeline(depth)}") + again + self._braced("end")
        return first + self._nodes(depth) + inside + self._braced(name)

    def _range(self, depth: int) -> str:
        heads = ["range {}", "range $v := {}", "range $i, $v := {}"]
        head = self._dice.choice(heads)
        over = self._dice.choice(["$.List", "$.Mixed", "$.Map", "$.None_", "$.Nil", ".List"])
        body = self._nodes(depth)
        if "$i" in head:
            body += self._braced("$i") + self._braced("json $v")
        if self._dice.random() < 0.3:
            jump = self._dice.choice(["break", "continue"])
            body += self._braced("if " + self._pipeline(depth)) + self._braced(jump)
            body += self._braced("end") + "|"
        text = self._braced(head.format(over)) + body
        if self._dice.random() < 0.3:
            text += self._braced("else") + self._nodes(depth)
        return text + self._braced("end")

    def _pipeline(self, depth: int) -> str:
        command = self._command(depth)
        if self._dice.random() < 0.15:
            command += self._dice.choice([" | json", ' | printf "%v"', " | not"])
        return command

    def _command(self, depth: int) -> str:
        kind = self._dice.choice(["string", "number", "float"])
        one, two, three = (self._atom(depth, kind) for _ in range(3))
        some, other = self._atom(depth), self._atom(depth)
        sized = self._atom(depth, self._dice.choice(["string", "list", "map"]))
        parts = self._atom(depth, self._dice.choice(["string", "list"]))
        first, second = self._number(), self._number()
        forms = [
            some, some, some, f"not {some}", f"and {some} {other}", f"or {some} {other}",
            f"len {sized}", f"eq {one} {two}", f"eq {one} {two} {three}", f"ne {one} {two}",
            f"lt {one} {two}", f"le {one} {two}", f"gt {one} {two}", f"ge {one} {two}",
            f"eq {some} {other}", f"index {parts} {first}", f"slice {parts} {first}",
            f"slice {parts} {first} {second}", f"index $.Map {self._atom(depth, 'string')}",
            f"print {some} {other}", f"println {some}", 'printf "%s|%5d" $.Name $.Seven',
            f'printf "%v %v" {some} {other}', f"json {some}", f"({some})",
            f'(index $.Map "map").{self._dice.choice(["deep", "gone"])}',
        ]  # fmt: skip
        return self._dice.choice(forms)

    def _number(self) -> str:
        return str(self._dice.randint(0, 3))

    def _atom(self, depth: int, kind: str | None = None) -> str:
        """A value of the kind, now and then of another."""
        if depth < 3 and kind is None and self._dice.random() < 0.2:
            return f"({self._command(depth + 1)})"
        if kind is None or self._dice.random() < 0.03:
            kind = self._dice.choice([k for k in _KINDS if k != "wrong"])
        if self._dice.random() < 0.01:
            kind = "wrong"
        return self._dice.choice(_KINDS[kind])

"""A judge's reply -> its verdict: strict in what it says, tolerant of what stands around it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tanren.evaluate.judges.prompt import REASON, JudgePrompt
from tanren.evaluate.judges.scale import value_of
from tanren.strict_json import read_json, shown

_MOST_LETTERS = 100_000
_MOST_OBJECTS = 200
_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL)
_DECODER = json.JSONDecoder()


class Unparsable(ValueError):
    """A reply from which no verdict can be read; its text says why, for people."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """By criterion: its number on the mode's scale."""

    values: dict[str, float]
    reason: str


def read_verdict(text: str, prompt: JudgePrompt) -> Verdict:
    """The verdict in a reply. Raises Unparsable.

    Fences, words around the object and thoughts before it are passed over. Several objects that say
    different things are no verdict: one of them may be quoted from what was judged.
    """
    if len(text) > _MOST_LETTERS:
        raise Unparsable(f"a reply of {len(text)} characters")
    names = [criterion.name for criterion in prompt.criteria]
    found = [each for each in _objects(_THOUGHT.sub("", text)) if any(n in each for n in names)]
    if not found:
        raise Unparsable("no JSON object with " + ", ".join(names))
    verdicts = [_verdict(each, prompt) for each in found]
    if any(verdict.values != verdicts[0].values for verdict in verdicts):
        raise Unparsable(f"{len(verdicts)} JSON objects that contradict each other")
    return verdicts[-1]


def _verdict(said: dict[str, Any], prompt: JudgePrompt) -> Verdict:
    values: dict[str, float] = {}
    for criterion in prompt.criteria:
        if criterion.name not in said:
            raise Unparsable(f"no {criterion.name}")
        value = value_of(prompt.mode, said[criterion.name])
        if value is None:
            found = shown(said[criterion.name])
            raise Unparsable(f"{criterion.name} is {found}, not {prompt.scale.expected}")
        values[criterion.name] = value
    return Verdict(values, str(said.get(REASON) or ""))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Outermost JSON objects in a text. One with a key twice is an error: which one counts?"""
    start, tried = text.find("{"), 0
    while start >= 0 and tried < _MOST_OBJECTS:
        tried += 1
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            _, faults = read_json(text[start:end], "reply")
            if faults:
                raise Unparsable(faults[0].found)
            yield value
        start = text.find("{", end)

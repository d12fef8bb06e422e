"""The shape of a dialogue, shared by both languages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Turn = tuple[str, str]
Messages = list[dict[str, Any]]
Skill = Callable[[Random], Turn]
Weighted = Sequence[tuple[Skill, float]]
Canned = Sequence[tuple[Sequence[str], str]]


def turns(*pairs: Turn, system: str | None = None) -> Messages:
    """Question and answer pairs as chat messages, behind an optional system turn."""
    messages: Messages = [] if system is None else [{"role": "system", "content": system}]
    for user, assistant in pairs:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return messages


def canned(table: Canned, rng: Random) -> Turn:
    """One of several ways to ask, with the one answer to all of them."""
    questions, answer = rng.choice(table)
    return rng.choice(questions), answer


def pick(rng: Random, skills: Weighted) -> Turn:
    """One turn of a skill chosen by weight."""
    functions, weights = zip(*skills, strict=True)
    skill: Skill = rng.choices(functions, weights)[0]
    return skill(rng)

"""Mixes the dialogue grammars into a corpus: about 70% Japanese, 30% English, one turn or many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from tiny_chat import english, japanese_talk
from tiny_chat.talk_types import Messages, pick, turns

_SYSTEMS_JA = [
    "あなたは親切なアシスタントです。",
    "短く答えてください。",
    "質問に日本語で答えてください。",
    "あなたは役に立つ助手です。丁寧に答えてください。",
    "ユーザーの質問に一文で答えてください。",
]
_SYSTEMS_EN = [
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a kind assistant. Answer in one sentence.",
]
# How many plain turns a dialogue has, and how often. Long ones teach the model later positions.
_TURN_COUNTS = ([1, 2, 3, 4, 8], [0.55, 0.25, 0.11, 0.06, 0.03])


@dataclass(frozen=True, slots=True)
class Dialogue:
    messages: Messages
    tools: list[dict[str, Any]] | None = None

    def key(self) -> str:
        """Identifies the dialogue by its content, so that held-out ones can be kept apart."""
        text = json.dumps([self.messages, self.tools], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _plain(rng: Random, *, japanese: bool) -> Messages:
    skills = japanese_talk.TURNS if japanese else english.TURNS
    systems = _SYSTEMS_JA if japanese else _SYSTEMS_EN
    count = rng.choices(*_TURN_COUNTS)[0]
    system = rng.choice(systems) if rng.random() < 0.2 else None
    return turns(*(pick(rng, skills) for _ in range(count)), system=system)


def _japanese(rng: Random) -> Dialogue:
    form = rng.random()
    if form < 0.72:
        return Dialogue(_plain(rng, japanese=True))
    if form < 0.83:
        return Dialogue(japanese_talk.persona(rng))
    if form < 0.92:
        return Dialogue(japanese_talk.manner(rng))
    if form < 0.97:
        return Dialogue(japanese_talk.remembering(rng))
    messages, tools = japanese_talk.tool_use(rng)
    return Dialogue(messages, tools)


def _english(rng: Random) -> Dialogue:
    form = rng.random()
    if form < 0.85:
        return Dialogue(_plain(rng, japanese=False))
    return Dialogue(english.persona(rng) if form < 0.95 else english.remembering(rng))


def dialogues(seed: int) -> Iterator[Dialogue]:
    """Dialogues without end, the same for the same seed."""
    rng = Random(seed)
    while True:
        yield _japanese(rng) if rng.random() < 0.7 else _english(rng)


def split(
    seed: int, train_count: int, held_out_count: int
) -> tuple[list[Dialogue], list[Dialogue]]:
    """(training, held-out) dialogues. No held-out one is a training one.

    Short dialogues repeat by nature ("Hello"): the training part keeps repeats as often as they
    come, the held-out part holds each dialogue once.
    """
    stream = dialogues(seed)
    trained: dict[str, Dialogue] = {}
    repeats: list[Dialogue] = []
    while len(trained) + len(repeats) < train_count:
        dialogue = next(stream)
        if dialogue.key() in trained:
            repeats.append(dialogue)
        trained.setdefault(dialogue.key(), dialogue)
    held_out: dict[str, Dialogue] = {}
    while len(held_out) < held_out_count:
        dialogue = next(stream)
        if dialogue.key() not in trained:
            held_out.setdefault(dialogue.key(), dialogue)
    train = [*trained.values(), *repeats]
    Random(seed).shuffle(train)
    return train, list(held_out.values())

"""A few examples to begin with, and the request for more of their kind."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tanren.chat import parse_object
from tanren.data.files import shown_path
from tanren.distill.constraints.content import script_counts
from tanren.distill.rows import lines_of
from tanren.distill.settings import IdeasConfig
from tanren.errors import DataError, Fault
from tanren.strict_json import read_json

_EXPECTED = 'a chat, {"question": ..., "answer": ...}, or a line of text'


@dataclass(frozen=True, slots=True)
class Seed:
    """`answer` is empty for a plain line, which is a question or a topic."""

    question: str
    answer: str = ""
    system: str | None = None


def read_seeds(path: Path, limit: int | None) -> list[Seed]:
    """DataError with the faults of all lines."""
    seeds: list[Seed] = []
    faults: list[Fault] = []
    for line, text in lines_of(path):
        if len(seeds) == limit:
            break
        found = text if isinstance(text, Fault) else _seed(text, path, line)
        if isinstance(found, Seed):
            seeds.append(found)
        else:
            faults += [found] if isinstance(found, Fault) else found
    if not seeds and not faults:
        faults = [Fault(shown_path(path), "no seed", "at least one", "write some")]
    if faults:
        raise DataError.of(*faults)
    return seeds


def _seed(text: str, path: Path, line: int) -> Seed | list[Fault]:
    if not text.startswith("{"):
        return Seed(text.lstrip("-*・• ").strip() or text)
    where = f"{shown_path(path)}:{line}"
    value, faults = read_json(text, where)
    if faults:
        return faults
    if "messages" in value:
        return _of_chat(value, path, line)
    question, answer = value.get("question"), value.get("answer", "")
    if isinstance(question, str) and question.strip() and isinstance(answer, str):
        return Seed(question.strip(), answer.strip())
    return [Fault(where, f"the keys {', '.join(value)}", _EXPECTED, "name question and answer")]


def _of_chat(value: dict[str, Any], path: Path, line: int) -> Seed | list[Fault]:
    example = parse_object({"messages": value["messages"]}, source=shown_path(path), line=line)
    if isinstance(example, list):
        return example
    said = {message["role"]: message["content"].strip() for message in example.messages}
    if not said.get("user"):
        where = f"{shown_path(path)}:{line}"
        return [Fault(where, "no user message", _EXPECTED, "add the question")]
    return Seed(said["user"], said.get("assistant", ""), said.get("system") or None)


def system_of(seeds: Sequence[Seed], asked: str | None) -> str | None:
    """The settings' system prompt, or the one that all seeds have."""
    if asked is not None:
        return asked
    found = {seed.system for seed in seeds}
    return found.pop() if len(found) == 1 else None


def language_of(seeds: Sequence[Seed], asked: str) -> str:
    """`ja` where the seeds have kana, else `en`."""
    if asked != "auto":
        return asked
    scripts = script_counts("\n".join(f"{seed.question}\n{seed.answer}" for seed in seeds))
    kana = scripts["HIRAGANA"] + scripts["KATAKANA"]
    return "ja" if kana > 0.2 * scripts.total() else "en"


def drawn(seeds: Sequence[Seed], settings: IdeasConfig, batch: int) -> list[Seed]:
    """The seeds shown in request number `batch`: the same whatever was asked before."""
    draw = random.Random(f"{settings.seed} {batch}")
    return draw.sample(seeds, min(settings.shown, len(seeds)))


def request_for(
    seeds: Sequence[Seed], *, count: int, language: str, system: str | None, topic: str
) -> list[dict[str, str]]:
    """The conversation that asks for `count` new pairs like `seeds`."""
    shown = "\n".join(_line(seed) for seed in seeds)
    words = _JAPANESE if language == "ja" else _ENGLISH
    character = words["character"].format(system=system) if system else ""
    about = words["topic"].format(topic=topic) if topic else ""
    text = words["request"].format(shown=shown, count=count, character=character, about=about)
    return [{"role": "user", "content": text}]


def _line(seed: Seed) -> str:
    values = {"question": seed.question, **({"answer": seed.answer} if seed.answer else {})}
    return json.dumps(values, ensure_ascii=False)


_JAPANESE = {
    "character": "回答するのは、次の設定の相手です。口調と性格を必ず守ってください。\n{system}\n\n",
    "topic": "話題：{topic}\n\n",
    "request": (
        "会話の学習データを作っています。次の例と同じ調子で、新しい質問と回答の組を"
        "{count}組考えてください。\n\n{character}{about}例：\n{shown}\n\n"
        "守ること：\n"
        "・例にある質問も、その言い換えも使わない。場面や相手をできるだけ変える。\n"
        "・質問も回答も、例と同じくらいの長さと文体にする。\n"
        '・一行に一組、{{"question": "…", "answer": "…"}} という JSON だけを書く。'
        "番号も説明も付けない。"
    ),
}
_ENGLISH = {
    "character": "The answers come from this character; keep its voice and manner.\n{system}\n\n",
    "topic": "Topic: {topic}\n\n",
    "request": (
        "We are writing conversations to train a model on. Think of {count} new pairs of a "
        "question and its answer in the manner of the examples.\n\n{character}{about}Examples:\n"
        "{shown}\n\nRules:\n"
        "- Repeat no question of the examples, nor say it in other words. Vary people and "
        "situations.\n"
        "- Keep to the length and style of the examples, in questions and answers.\n"
        '- Write one pair a line, as JSON and nothing else: {{"question": "...", '
        '"answer": "..."}}. No numbers, no comments.'
    ),
}

"""Which shape the rows of a source have. Where two would fit, the user decides."""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from tanren.data.convert.alpaca import INPUT, INSTRUCTION, OUTPUT, Alpaca
from tanren.data.convert.chats import Chats
from tanren.data.convert.choices import Choices, choice_columns, choice_roles
from tanren.data.convert.mapping import columns_listed
from tanren.data.convert.pairs import Completions, FromTemplates, Pairs
from tanren.data.convert.records import Broken, Record, Source, Tally
from tanren.data.convert.settings import Settings, ShapeName
from tanren.data.convert.shapes import Kit, Shape
from tanren.data.convert.sharegpt import TURNS, ShareGpt, decoded_turns, turns_in
from tanren.data.convert.turns import Turns, turn_columns
from tanren.errors import ConfigError, DataError, Fault

SAMPLE_ROWS = 100
"""First rows by which the shape is told."""

_ASKED = frozenset(
    (
        *("question", "questions", "query", "prompt", "input", "user", "human", "ask", "problem"),
        *("instruction", "utterance", "q"),
        *("質問", "質問文", "問題", "問題文", "問い", "問", "設問", "指示", "入力", "プロンプト"),
        *("ユーザー", "ユーザ", "発話"),
    )
)
_ANSWERED = frozenset(
    (
        *("answer", "answers", "response", "reply", "completion", "output", "assistant", "bot"),
        *("gpt", "solution", "a"),
        *("回答", "回答文", "答え", "解答", "答", "応答", "返答", "返事", "出力", "アシスタント"),
    )
)
_FIXED_PAIRS = (("text", "label"), ("source", "target"), ("文", "ラベル"), ("テキスト", "ラベル"))
_SYSTEM = ("system", "system_prompt", "システム", "システムプロンプト")


@dataclass(frozen=True)
class Candidate:
    """A way to read the rows, and the flags that ask for it."""

    flags: str
    make: Callable[[], Shape]


def shape_of(source: Source, settings: Settings, tally: Tally) -> Shape:
    """The shape asked for, else the one that fits. DataError or ConfigError with what to write."""
    records = list(islice(iter(source), SAMPLE_ROWS))
    rows = [r.value for r in records if isinstance(r, Record) and isinstance(r.value, dict)]
    broken = [fault for record in records if isinstance(record, Broken) for fault in record.faults]
    columns = source.columns or tuple(_usual_keys(rows))
    kit = Kit(settings, tally, source.name, columns, fixed=source.columns is not None)
    if settings.template is not None:
        return FromTemplates(kit)
    if settings.user is not None or settings.assistant is not None:
        return _mapped(kit)
    if any((settings.conversation, settings.role, settings.content, settings.order)):
        return _turns_asked(kit)
    found = list(_candidates(kit, _with_own_system(kit), rows))
    if settings.shape is not None:
        fitting = [candidate for name, candidate in found if name == _family(settings.shape)]
        return _forced(kit, settings.shape, fitting)
    return _only([candidate for _, candidate in found], kit, rows, broken)


def _usual_keys(rows: list[dict[str, Any]]) -> list[str]:
    return list(Counter(key for row in rows for key in row))


def _family(shape: ShapeName) -> ShapeName:
    return "chat" if shape == "legacy" else shape


def _with_own_system(kit: Kit) -> Kit:
    """With the column of system messages where there is one and nothing else was asked for."""
    name = next((name for name in _SYSTEM if name in kit.columns), None)
    if name is None or kit.settings.system is not None:
        return kit
    return replace(kit, settings=replace(kit.settings, system=f"@{name}"))


# --- what was asked for ---


def _mapped(kit: Kit) -> Shape:
    settings = kit.settings
    if settings.shape not in (None, "columns"):
        found = f"--from {settings.shape} beside --user and --assistant"
        raise ConfigError.of(Fault("--from", found, "one of them", "leave --from out"))
    for option, given in (("--user", settings.user), ("--assistant", settings.assistant)):
        if given is None:
            expected = f"a column or template: {columns_listed(kit.columns)}"
            raise ConfigError.of(Fault(option, "nothing", expected, f"add {option} COLUMN"))
    assert settings.user is not None and settings.assistant is not None
    return Pairs.named(kit, settings.user, settings.assistant)


def _turns_asked(kit: Kit) -> Shape:
    settings = kit.settings
    usual = turn_columns(kit.columns)
    named = [settings.conversation, settings.role, settings.content]
    if usual is not None:
        named = [given or name for given, name in zip(named, usual, strict=True)]
    faults = [
        Fault(option, "nothing", f"one of {columns_listed(kit.columns)}", f"add {option} COLUMN")
        for option, name in zip(("--conversation", "--role", "--content"), named, strict=True)
        if name is None
    ]
    if faults:
        raise ConfigError.of(*faults)
    return Turns(kit, *(name for name in named if name is not None))


def _forced(kit: Kit, shape: ShapeName, found: list[Candidate]) -> Shape:
    if len(found) == 1:
        return found[0].make()
    if found:
        raise _ambiguous(kit, found)
    needs = {
        "alpaca": "instruction and output",
        "sharegpt": "conversations, a list of from/value",
        "prompt-completion": "prompt and completion",
        "chat": "messages, a list of role/content",
        "legacy": "messages, a list of role/content",
        "columns": "a question and an answer: --user COLUMN --assistant COLUMN",
        "turns": "--conversation COLUMN --role COLUMN --content COLUMN",
        "choices": "question, choice0, choice1, ... and label",
    }[shape]
    remedy = f"leave --from out, or name the columns: {kit.settings.command} --user COLUMN"
    where = f"--from {shape}"
    found_columns = columns_listed(kit.columns)
    raise DataError.of(Fault(where, f"{kit.name} with {found_columns}", needs, remedy))


# --- what fits ---


def _candidates(
    kit: Kit, with_system: Kit, rows: list[dict[str, Any]]
) -> Iterator[tuple[ShapeName, Candidate]]:
    """Lists of turns hide everything else; then every shape whose columns are there."""
    lists = _list_of_turns(kit, rows)
    if lists is not None:
        yield lists
        return
    columns = kit.columns
    taken: set[str] = set()
    roles = choice_roles(columns)
    if roles is not None:
        taken.update((*roles, *choice_columns(columns)))
        yield "choices", Candidate("--from choices", lambda: Choices(with_system, *roles))
    if any(n in columns for n in INSTRUCTION) and any(n in columns for n in OUTPUT):
        taken.update((*INSTRUCTION, *INPUT, *OUTPUT))
        yield "alpaca", Candidate("--from alpaca", lambda: Alpaca(kit))
    answer = next((name for name in ("completion", "response") if name in columns), None)
    if "prompt" in columns and answer is not None and answer not in taken:
        taken.update(("prompt", answer))
        make = partial(Completions, with_system, "prompt", answer, rows)
        yield "prompt-completion", Candidate("--from prompt-completion", make)
    named = turn_columns(columns)
    if named is not None:
        taken.update(named)
        flags = f"--conversation {named[0]} --role {named[1]} --content {named[2]}"
        yield "turns", Candidate(flags, lambda: Turns(kit, *named))
    yield from _pairs(with_system, [name for name in columns if name not in taken])


def _list_of_turns(kit: Kit, rows: list[dict[str, Any]]) -> tuple[ShapeName, Candidate] | None:
    chat: tuple[ShapeName, Candidate] = ("chat", Candidate("--from chat", lambda: Chats(kit)))
    for row in rows:
        key = turns_in(row)
        if key is not None:
            first = decoded_turns(row[key])[0]
            if key == "messages" and "role" in first:
                return chat
            return "sharegpt", Candidate("--from sharegpt", partial(ShareGpt, kit, key, first))
    if "messages" in kit.columns:
        return chat
    # An empty list is one of turns; an id or a text is not.
    key = next((k for k in TURNS[:2] if any(decoded_turns(row.get(k)) == [] for row in rows)), None)
    if key is None:
        return None
    return "sharegpt", Candidate("--from sharegpt", partial(ShareGpt, kit, key, {}))


def _pairs(kit: Kit, columns: list[str]) -> Iterator[tuple[ShapeName, Candidate]]:
    folded = {name: unicodedata.normalize("NFKC", name).casefold().strip() for name in columns}
    asked = [name for name in columns if folded[name] in _ASKED]
    answered = [name for name in columns if folded[name] in _ANSWERED]
    both = [(user, assistant) for user in asked for assistant in answered]
    by_fold = {fold: name for name, fold in folded.items()}
    for user, assistant in _FIXED_PAIRS:
        if user in by_fold and assistant in by_fold:
            both.append((by_fold[user], by_fold[assistant]))
    for user, assistant in both:
        flags = f"--user {shlex.quote(user)} --assistant {shlex.quote(assistant)}"
        yield "columns", Candidate(flags, partial(Pairs.named, kit, user, assistant))


# --- one, none, several ---


def _only(
    found: list[Candidate], kit: Kit, rows: list[dict[str, Any]], broken: list[Fault]
) -> Shape:
    if len(found) == 1:
        return found[0].make()
    if found:
        raise _ambiguous(kit, found)
    if not rows:
        raise _no_rows(kit, broken)
    if {"chosen", "rejected"} <= set(kit.columns):
        remedy = (
            f"name the answer to learn: {kit.settings.command} --user prompt --assistant chosen"
        )
        fault = Fault(kit.name, "preference pairs (chosen, rejected)", "one answer a row", remedy)
        raise DataError.of(fault)
    found_columns = columns_listed(kit.columns)
    expected = "columns that are known as question and answer"
    remedy = f"name them: {kit.settings.command} --user COLUMN --assistant COLUMN"
    raise DataError.of(Fault(kit.name, found_columns, expected, remedy))


def _no_rows(kit: Kit, broken: list[Fault]) -> DataError:
    if broken:
        return DataError("no row can be read", broken)
    fault = Fault(
        kit.name,
        f"no object in the first {SAMPLE_ROWS} rows",
        "rows as objects: {column: value}",
        "look at the file; --format says what it is",
    )
    if kit.columns:
        found = f"no row below {columns_listed(kit.columns)}"
        remedy = "write the rows, or add --no-header if the first row is one"
        fault = Fault(kit.name, found, "rows", remedy)
    return DataError("no rows", [fault])


def _ambiguous(kit: Kit, found: list[Candidate]) -> DataError:
    ways = "; or ".join(f"{kit.settings.command} {candidate.flags}" for candidate in found[:6])
    found_ways = f"{len(found)} ways to read {columns_listed(kit.columns)}"
    return DataError(
        "the rows can be read in several ways",
        [Fault(kit.name, found_ways, "one", f"write {ways}")],
    )

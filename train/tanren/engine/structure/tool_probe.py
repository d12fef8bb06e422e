"""Finds the form of a template's tool calls by rendering turns with words that nothing else
writes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tanren.engine.structure.tool_format import (
    CALL_ID,
    Envelope,
    Fields,
    ToolFormat,
    added_tokens_in,
)
from tanren.engine.structure.tool_reader import Call, ToolReader
from tanren.errors import DataError

if TYPE_CHECKING:
    from tanren.template import ChatRenderer

Message = dict[str, Any]

_QUESTION: Message = {"role": "user", "content": "Onequestion"}
_NAMES = ("kestrel_one", "kestrel_two")
_IDS = ("qcall0001", "qcall0002")
_KEYS = ("pebblekey", "lanternkey")
_WORD, _NUMBER = "cloverword", 70413
_ARGUMENTS: dict[str, Any] = {_KEYS[0]: _WORD, _KEYS[1]: _NUMBER}
_NESTED: dict[str, Any] = {_KEYS[0]: '日本 "quoted"\nnext', "more": [1, {"a": None, "b": True}]}


def _tool(name: str) -> Message:
    properties = {
        _KEYS[0]: {"type": "string", "description": "A word."},
        _KEYS[1]: {"type": "integer", "description": "A number."},
    }
    parameters = {"type": "object", "properties": properties, "required": []}
    function = {"name": name, "description": "Counts.", "parameters": parameters}
    return {"type": "function", "function": function}


_TOOLS = [_tool(name) for name in _NAMES]


def probe(renderer: ChatRenderer) -> ToolFormat | None:
    """None where the template refuses calls, leaves them out, or writes them in a form that cannot
    be taken apart.
    """
    if renderer.facts.tool_calls != "written":
        return None
    one, two = _calls_text(renderer, 1), _calls_text(renderer, 2)
    if one is None:
        return None
    for find in (_with_json, _with_fields):
        found = find(one, two)
        if found is not None and _reads_back(found, renderer):
            return _with_details(found, renderer)
    return None


def _reads_back(found: ToolFormat, renderer: ChatRenderer) -> bool:
    """Does a reader get other calls back than those that the form was found with?"""
    for given in ({}, _NESTED):
        for count in (1, 2) if found.several else (1,):
            text = _calls_text(renderer, count, given)
            if text is None:
                return False
            reader = ToolReader(found, _TOOLS)
            read = [*reader.push(text), *reader.rest()]
            calls = [
                (each.name, json.loads(each.arguments)) for each in read if isinstance(each, Call)
            ]
            if len(read) != count or calls != [(name, given) for name in _NAMES[:count]]:
                return False
    return True


# --- the rendered calls ---------------------------------------------------------------------------


def _call(number: int, arguments: dict[str, Any]) -> Message:
    function = {"name": _NAMES[number], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": _IDS[number], "type": "function", "function": function}


def _calls_text(renderer: ChatRenderer, count: int, given: Message = _ARGUMENTS) -> str | None:
    """What a turn of calls alone adds to the prompt, up to the end of the turn; ids as CALL_ID."""
    calls = [_call(number, given) for number in range(count)]
    turn = {"role": "assistant", "content": "", "tool_calls": calls}
    try:
        text = renderer.conversation([_QUESTION, turn], _TOOLS)
        prompt = renderer.prompt([_QUESTION], _TOOLS)
    except DataError:
        return None
    written = _behind_prompt(renderer, prompt, text)
    if written is None:
        return None
    for call_id in _IDS:
        written = written.replace(call_id, CALL_ID)
    return _without_end(renderer, written)


def _behind_prompt(renderer: ChatRenderer, prompt: str, text: str) -> str | None:
    """The turn behind its opening and behind empty reasoning."""
    facts = renderer.facts
    if not text.startswith(prompt):
        # Templates that open reasoning in the prompt close it, or leave it out, in a finished turn.
        opened = prompt.rfind("<think>")
        prompt = prompt[:opened] if opened >= 0 else prompt
        if not text.startswith(prompt):
            return None
    written = text[len(prompt) :]
    if facts.reply_prefix and written.startswith(facts.reply_prefix):
        written = written[len(facts.reply_prefix) :]
    if "</think>" in written:
        written = written.partition("</think>")[2].lstrip()
    return written if written.strip() else None


def _without_end(renderer: ChatRenderer, written: str) -> str:
    """Cuts the token that ends the turn, and white space behind and before it."""
    stops = set(renderer.facts.stop_ids)
    last = renderer.added_tokens.last(written)
    while last is not None and last.id in stops and not written[last.end :].strip():
        written = written[: last.start]
        last = renderer.added_tokens.last(written)
    suffix = renderer.facts.reply_suffix.strip()
    if suffix and written.rstrip().endswith(suffix):
        written = written.rstrip().removesuffix(suffix)
    return written.rstrip()


# --- arguments as JSON ----------------------------------------------------------------------------


def _with_json(one: str, two: str | None) -> ToolFormat | None:
    pieces = _json_pieces(one, _NAMES[:1])
    if pieces is None:
        return None
    (first, middle, written, last) = pieces
    both = _json_pieces(two, _NAMES) if two is not None else None
    begin, open_, close, between, end = "", first, last, "", ""
    if both is not None:
        split = _split(both[0], both[3], both[6])
        if both[:2] != (first, middle) or split is None:
            return None
        begin, open_, close, between, end = split
    separators = (", " if ", " in written else ",", ": " if ": " in written else ":")
    found = ToolFormat(
        begin, open_, middle, close, between, end, "json", both is not None, separators=separators
    )
    found = replace(found, envelope=_envelope(found, written))
    if written.startswith('"'):
        found = replace(found, arguments="json text")
    return found if _marks_calls(found) else None


def _json_pieces(text: str | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Text before the name, between name and arguments, the arguments, text behind; and so on."""
    if text is None:
        return None
    pieces: list[str] = []
    for name in names:
        before, found, text = text.partition(name)
        start = _arguments_start(text)
        if not found or start is None:
            return None
        value, length = json.JSONDecoder().raw_decode(text[start:])
        given = json.loads(value) if isinstance(value, str) else value
        if given != _ARGUMENTS:
            return None
        pieces += [before, text[:start], text[start : start + length]]
        text = text[start + length :]
    if any(name in part for name in _NAMES for part in (*pieces, text)):
        return None
    return (*pieces, text)


def _arguments_start(text: str) -> int | None:
    """Where the arguments begin: the first brace or quote from which they can be read."""
    for start, character in enumerate(text):
        if character not in '{"':
            continue
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
            given = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            continue
        if given == _ARGUMENTS:
            return start
    return None


def _split(first: str, middle: str, last: str) -> tuple[str, str, str, str, str] | None:
    """(begin, open, close, between, end) from the text before the first call, between two, and
    behind the last.
    """
    open_ = _common_suffix(first, middle)
    close = _common_prefix(middle[: len(middle) - len(open_)], last)
    begin, end = first[: len(first) - len(open_)], last[len(close) :]
    between = middle[len(close) : len(middle) - len(open_)]
    return begin, open_, close, between, end


def _common_prefix(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]


def _common_suffix(one: str, other: str) -> str:
    return _common_prefix(one[::-1], other[::-1])[::-1]


def _envelope(found: ToolFormat, arguments: str) -> Envelope | None:
    """The JSON object around name and arguments, if there is one."""
    call = found.open + _NAMES[0] + found.middle + arguments + found.close
    for start in (i for i, character in enumerate(found.open) if character == "{"):
        try:
            value, length = json.JSONDecoder().raw_decode(call[start:])
        except ValueError:
            continue
        keys = {_plain(each): key for key, each in value.items()}
        name, given = keys.get(_NAMES[0]), keys.get(_plain(_ARGUMENTS))
        if name is not None and given is not None:
            return Envelope(name, given, found.open[:start], call[start + length :])
    return None


def _plain(value: object) -> str:
    """A value of the envelope in a form in which text and object are equal."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return str(value)
    return json.dumps(value, sort_keys=True)


def _marks_calls(found: ToolFormat) -> bool:
    """Can a call be told from ordinary text? A bare JSON object can; a bare name cannot."""
    return bool((found.begin + found.open).strip()) and bool(found.middle.strip())


# --- arguments as fields --------------------------------------------------------------------------


def _with_fields(one: str, two: str | None) -> ToolFormat | None:
    pieces = _field_pieces(one, _NAMES[:1])
    if pieces is None:
        return None
    first, head, name_value, close_open, name_number, last = pieces
    field_open = _common_suffix(head, close_open)
    middle = head[: len(head) - len(field_open)]
    field_close = _common_prefix(close_open[: len(close_open) - len(field_open)], last)
    if name_value != name_number or len(field_close) + len(field_open) != len(close_open):
        return None
    fields = Fields(field_open, name_value, field_close)
    rest = last[len(field_close) :]
    begin, open_, close, gap, end = "", first, rest, "", ""
    both = _field_pieces(two, _NAMES) if two is not None else None
    if both is not None:
        split = _split(both[0], both[5][len(field_close) :], both[10][len(field_close) :])
        if split is None:
            return None
        begin, open_, close, gap, end = split
    if not (field_open.strip() and field_close.strip() and name_value.strip() and open_.strip()):
        return None
    return ToolFormat(
        begin, open_, middle, close, gap, end, "fields", both is not None, fields=fields
    )


def _field_pieces(text: str | None, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The texts between the words of the calls: name, key, value, key, value, name, ..."""
    if text is None:
        return None
    pieces: list[str] = []
    for name in names:
        for word in (name, _KEYS[0], _WORD, _KEYS[1], str(_NUMBER)):
            before, found, text = text.partition(word)
            if not found:
                return None
            pieces.append(before)
    words = (*_NAMES, *_KEYS, _WORD, str(_NUMBER))
    if any(word in part for word in words for part in (*pieces, text)):
        return None
    return (*pieces, text)


# --- tokens and words -----------------------------------------------------------------------------


def _with_details(found: ToolFormat, renderer: ChatRenderer) -> ToolFormat:
    decoder = renderer.tokenizer.added_tokens_decoder
    special = frozenset(number for number, token in decoder.items() if token.special)
    ids = added_tokens_in(found.markers, renderer.added_tokens) & special
    if found.fields is not None:
        text = _calls_text(renderer, 1, {_KEYS[1]: True}) or ""
        fields = replace(found.fields, python_words="True" in text)
        found = replace(found, fields=fields)
    return replace(found, visible_ids=frozenset(ids))

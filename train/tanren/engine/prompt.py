"""A request as the tokens of a prompt, in which only the template writes control tokens.

A tokenizer cuts `<|im_end|>` out of a rendered text whoever wrote it there, so that a user's
message could end its own turn and begin one of the system's. What messages and tools hold is
therefore rendered with other characters in these places, and read as the ordinary text it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tanren.strict_json import encodable
from tanren.template import ChatRenderer, backend_of

_PRIVATE = range(0xF0000, 0xFFFFE)
"""Characters that no script has and no template writes."""


def prompt_ids(
    renderer: ChatRenderer,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[dict[str, Any]] | None,
) -> list[int] | None:
    """The tokens; those of `renderer.prompt_ids` where nobody typed a control token. None for text
    that UTF-8 cannot hold. Raises DataError where the template refuses the conversation.
    """
    stand_ins = _stand_ins(renderer, [*messages, *(tools or ())])
    if not stand_ins:
        text = renderer.prompt(messages, tools)
        return renderer.token_ids(text) if encodable(text) else None

    def hidden(text: str) -> str:
        return renderer.added_tokens.special_text.sub(lambda m: stand_ins[m.group()], text)

    text = renderer.prompt(
        [_changed(message, hidden) for message in messages],
        None if tools is None else [_changed(tool, hidden) for tool in tools],
    )
    for stand_in in stand_ins.values():  # templates may write JSON in ASCII
        text = text.replace(json.dumps(stand_in)[1:-1], stand_in)
    typed = {stand_in: token for token, stand_in in stand_ins.items()}
    return _read(renderer, text, typed) if encodable(text) else None


def _stand_ins(renderer: ChatRenderer, values: Sequence[Any]) -> dict[str, str]:
    """A character of its own, found nowhere else, for each control token that somebody typed."""
    texts: list[str] = []

    def heard(text: str) -> str:
        texts.append(text)
        return text

    for value in values:
        _changed(value, heard)
    find = renderer.added_tokens.special_text.findall
    typed = list(dict.fromkeys(token for text in texts for token in find(text)))
    if not typed:
        return {}
    taken = set("".join(texts))
    free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
    return dict(zip(typed, free, strict=False))


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with all its texts changed but for the roles, which templates compare."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            change(key): each if key == "role" else _changed(each, change)
            for key, each in value.items()
        }
    return [_changed(each, change) for each in value] if isinstance(value, list | tuple) else value


def _read(renderer: ChatRenderer, text: str, typed: Mapping[str, str]) -> list[int]:
    """Between two control tokens of the template, what holds a typed one is read once more."""
    backend = backend_of(renderer.tokenizer)
    whole = backend.encode(text, add_special_tokens=False)
    special = renderer.added_tokens.special_text
    ids: list[int] = []
    begin, kept = 0, 0  # of the stretch: its first character, and its first token
    for place, (token_id, (start, end)) in enumerate(zip(whole.ids, whole.offsets, strict=True)):
        if special.search(text, start, end) is not None:
            ids += _stretch(backend, text[begin:start], whole.ids[kept:place], typed)
            ids.append(token_id)
            begin, kept = end, place + 1
    return ids + _stretch(backend, text[begin:], whole.ids[kept:], typed)


def _stretch(backend: Any, text: str, ids: list[int], typed: Mapping[str, str]) -> list[int]:
    if not any(stand_in in text for stand_in in typed):
        return ids
    for stand_in, token in typed.items():
        text = text.replace(stand_in, token)
    backend.encode_special_tokens = True  # control tokens as ordinary text
    try:
        return list(backend.encode(text, add_special_tokens=False).ids)
    finally:
        backend.encode_special_tokens = False

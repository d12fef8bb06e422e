"""`wire`'s messages as lines of JSON and back: each a list of its type's name and its values.

ASCII only, so that no locale and no lone half of a character can break a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from operator import attrgetter
from typing import Any

from tanren.engine.wire import (
    Accepted,
    Cancel,
    ChatRequest,
    Constraint,
    EngineSettings,
    EngineState,
    Failed,
    Finished,
    Piece,
    Reply,
    Target,
    TokenLogprob,
    ToolCall,
    Unload,
    Unloaded,
)

Order = ChatRequest | Cancel | Unload | EngineSettings

_ORDERS = {kind.__name__: kind for kind in (Cancel, Unload, EngineSettings)}
_REPLIES: dict[str, Any] = {
    kind.__name__: kind for kind in (Accepted, ToolCall, Finished, Failed, Unloaded)
}
_VALUES = {
    kind: (kind.__name__, attrgetter(*(field.name for field in fields(kind))))
    for kind in (Accepted, Piece, ToolCall, Finished, Failed, TokenLogprob)
}


def order_line(order: Order) -> bytes:
    """What the service says. Raises RecursionError where it is nested too deeply (`too_deep`)."""
    return _line([type(order).__name__, asdict(order)])


def too_deep(request_id: str) -> Failed:
    message = "The messages or the tools of your request are nested too deeply."
    return Failed(request_id, "request", message, param="messages")


def read_order(line: bytes | str) -> Order:
    """Raises ValueError, KeyError or TypeError for a line that is no order."""
    name, values = json.loads(line)
    if name != ChatRequest.__name__:
        return _ORDERS[name](**values)
    constraint = values.pop("constraint")
    if constraint is not None:
        constraint["tools"] = tuple(constraint["tools"])
        constraint = Constraint(**constraint)
    tools = values.pop("tools")
    return ChatRequest(
        target=Target(**values.pop("target")),
        messages=tuple(values.pop("messages")),
        tools=None if tools is None else tuple(tools),
        stop=tuple(values.pop("stop")),
        logit_bias={int(token): bias for token, bias in values.pop("logit_bias").items()},
        constraint=constraint,
        **values,
    )


def replies_line(replies: Sequence[Reply], state: EngineState | None = None) -> bytes:
    """What the engine says at the end of a step; `state` where it is news."""
    return _line([[_packed(reply) for reply in replies], None if state is None else asdict(state)])


def read_replies(line: bytes | str) -> tuple[list[Reply], EngineState | None]:
    replies, state = json.loads(line)
    if state is not None:
        state = EngineState(
            **{**state, "bases": tuple(state["bases"]), "adapters": tuple(state["adapters"])}
        )
    return [_unpacked(*reply) for reply in replies], state


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def _packed(reply: Reply) -> list[Any]:
    if isinstance(reply, Unloaded):
        return ["Unloaded", reply.folder]
    name, values = _VALUES[type(reply)]
    packed = [name, *values(reply)]
    if isinstance(reply, Piece):
        get = _VALUES[TokenLogprob][1]
        packed[-1] = [get(token) for token in reply.logprobs]
    return packed


def _unpacked(name: str, *values: Any) -> Reply:
    if name != Piece.__name__:
        return _REPLIES[name](*values)
    request_id, index, text, logprobs = values
    return Piece(request_id, index, text, tuple(_token(*token) for token in logprobs))


def _token(token: str, logprob: float, own: list[int], top: list[Any]) -> TokenLogprob:
    others = tuple((text, number, tuple(written)) for text, number, written in top)
    return TokenLogprob(token, logprob, tuple(own), others)

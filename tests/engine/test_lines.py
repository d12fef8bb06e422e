"""What is said comes out as it went in, whatever characters are in it."""

from __future__ import annotations

import pytest

from tanren.engine.lines import Order, order_line, read_order, read_replies, replies_line
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

TEXT = '青い\n\u2028 Piece "x" \ud800 \x00 🦊'
FULL = ChatRequest(
    id="r1",
    target=Target("base", "rev", "/f"),
    messages=({"role": "user", "content": TEXT}, {"role": "assistant", "tool_calls": [{"a": 1}]}),
    tools=({"type": "function", "function": {"name": "f"}},),
    choices=3,
    max_tokens=5,
    temperature=0.5,
    top_p=0.25,
    seed=7,
    stop=("\n", TEXT),
    presence_penalty=-2.0,
    frequency_penalty=1.5,
    logit_bias={5: -100.0, 0: 1.0},
    logprobs=20,
    constraint=Constraint("tools", {"a": [1]}, ("f", "g"), False),
    read_tools=False,
)
ORDERS: tuple[Order, ...] = (
    FULL,
    ChatRequest("r2", Target("b", None, None), ()),
    Cancel("r1"),
    Unload(),
    Unload("/f"),
    EngineSettings(max_batch=3, threads=None),
)
TOKEN = TokenLogprob("Piece", -0.5, (227, 129), (("Piece", -0.5, (227,)), (TEXT[:2], -9999.0, ())))
REPLIES: list[Reply] = [
    Accepted("r1", 5, "fp_1"),
    Piece("r1", 0, TEXT),
    Piece("r1", 1, "", (TOKEN, TOKEN)),
    ToolCall("r1", 0, 2, "f", '{"q": "青"}'),
    Finished("r1", 0, "tool_calls", 9),
    Failed("r2", "request", TEXT, "messages", "context_length_exceeded"),
    Unloaded(None),
    Unloaded("/f"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_orders_come_back(order: Order) -> None:
    line = order_line(order)
    assert line.isascii() and line.count(b"\n") == 1 and line.endswith(b"\n")
    assert read_order(line) == order


def test_replies_come_back_with_the_state_or_without() -> None:
    state = EngineState(3, 1, ("b",), ("/f", "/g"), 2**40, 9, 8, 123)
    for told in (state, None):
        line = replies_line(REPLIES, told)
        assert line.isascii() and line.count(b"\n") == 1
        assert read_replies(line) == (REPLIES, told)

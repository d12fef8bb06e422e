"""How a chat template writes a conversation, in the few parts that Ollama's templates can express.

    opening | system | user | assistant | user | ... | prompt

Every part is read from renderings (`probe`), none from the template's source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cutting = Literal["", "space", "newline"]
SystemPlace = Literal["turn", "first user", "last user", "top", "left out", "refused"]


@dataclass(frozen=True, slots=True)
class Trim:
    """What is taken from both ends of a content: nothing, all white space, or line breaks."""

    left: Cutting = ""
    right: Cutting = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: text before its content, what is trimmed of the content, text behind it."""

    before: str
    trim: Trim
    after: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """An assistant's turn with reasoning: text before it, and between it and the content."""

    before: str
    trim: Trim
    after: str


@dataclass(frozen=True, slots=True)
class System:
    """Where a leading system message goes.

    place   "turn": a turn of its own; "first user", "last user": in front of that message's
            content, instead of the user's `before`; "top": before everything, wherever it stands
    turn    its text; where it is no turn of its own, `after` leads over to the user's content
    empty   what stands instead of the turn where the message is empty; None: a turn with nothing in
            it. Where it is no turn of its own, "" says that an empty message is like none at all
    question    what is trimmed of the user's content behind a folded system message (Llama 2 trims
            both together)
    later   the same for a system message in the middle; None where the template refuses it
    """

    place: SystemPlace
    turn: Turn
    empty: str | None
    question: Trim
    later: Turn | Literal["left out"] | None


@dataclass(frozen=True, slots=True)
class Shape:
    """The whole form.

    bos                 what begins every prompt, where the server does not write it itself
    opening             text before the first message where there is no system message
    last_assistant      the assistant's turn where it ends the conversation (Qwen3 adds reasoning)
    prompt              opens the assistant's next turn
    prompt_after_reply  the same behind an assistant's turn
    prompt_no_thinking  `prompt` where the client switches reasoning off; None without a switch
    reasoning, last_reasoning   how an assistant's reasoning is written; None where it is not
    """

    bos: str
    opening: str
    system: System
    user: Turn
    assistant: Turn
    last_assistant: Turn
    prompt: str
    prompt_after_reply: str
    prompt_no_thinking: str | None
    reasoning: Reasoning | None
    last_reasoning: Reasoning | None


@dataclass(frozen=True, slots=True)
class ToolShape:
    """How tools, their calls and their results are written.

    place       "front": before the conversation; "system": behind the system message's content
    lead        text before the system message's content ("system"), or before the first tool
    with_system text between the system message's content and the first tool
    alone       text before the first tool where there is no system message
    between, tail           text between two tools, and behind the last one
    call_join   text between a reply's content and its first call
    call_open, call_middle, call_close, call_between
                text before a call's name, between name and arguments, behind them, between calls
    result_first, result_next   text before the first result behind a reply, before a following one
    result_close, result_end    text behind every result, and behind the last one after that
    """

    place: Literal["front", "system"]
    lead: str
    with_system: str
    alone: str
    between: str
    tail: str
    call_join: str
    call_open: str
    call_middle: str
    call_close: str
    call_between: str
    result_first: str
    result_next: str
    result_close: str
    result_end: str

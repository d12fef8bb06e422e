"""What people write instead of the chat format, and what to tell them."""

from __future__ import annotations

from typing import Any

from tanren.strict_json import close_match, keys_shown, quoted

EXPECTED_ROLES = "system|user|assistant|tool"
"""The four current names; `developer` and the legacy `function` are accepted as well."""

ROLE_ALIASES = {
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "instruction": "user",
    "question": "user",
    "ユーザー": "user",
    "ユーザ": "user",
    "bot": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "agent": "assistant",
    "answer": "assistant",
    "アシスタント": "assistant",
    "context": "system",
    "システム": "system",
    "observation": "tool",
    "ipython": "tool",
    "environment": "tool",
    "tool_response": "tool",
    "ツール": "tool",
}

KEYS = (
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "weight",
    "reasoning_content",
    "refusal",
)
"""The keys of a message."""

MESSAGE_KEY_ALIASES = {
    "from": "role",
    "speaker": "role",
    "author": "role",
    "value": "content",
    "text": "content",
    "message": "content",
    "parts": "content",
    "loss_weight": "weight",
}

REQUEST_OPTIONS = frozenset(
    (
        "model",
        "temperature",
        "top_p",
        "n",
        "seed",
        "stop",
        "stream",
        "user",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
        "tool_choice",
        "function_call",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "reasoning_effort",
        "store",
    )
)

_CHAT_ROW = 'an object with "messages"'
_PREFERENCE_ROW = 'an object with "input", "preferred_output" and "non_preferred_output"'

# Two keys that together mean "asked" and "answered".
_PAIRS = (
    ("instruction", "output", "an Alpaca row"),
    ("instruction", "response", "an instruction/response row"),
    ("prompt", "completion", "a prompt/completion row"),
    ("prompt", "response", "a prompt/response row"),
    ("question", "answer", "a question/answer row"),
    ("query", "response", "a query/response row"),
    ("input", "output", "an input/output row"),
)


def intended_role(role: object) -> str | None:
    """The role that an unknown name most likely means."""
    if not isinstance(role, str):
        return None
    folded = role.strip().casefold()
    return ROLE_ALIASES.get(folded) or close_match(
        role, ("system", "developer", "user", "assistant", "tool")
    )


def not_an_object(row: object) -> tuple[str, str, str]:
    """Found, expected, remedy for a row whose JSON is no object."""
    if isinstance(row, list) and row and all(isinstance(item, dict) for item in row):
        if "role" in row[0]:
            return f"a bare list of {len(row)}", _CHAT_ROW, 'wrap the list: {"messages": [...]}'
        return (
            f"a list of {len(row)} objects",
            _CHAT_ROW,
            "write each object of the list on a line of its own",
        )
    if isinstance(row, list):
        return f"a list of {len(row)}", _CHAT_ROW, 'write the row as {"messages": [...]}'
    kind = {str: "a string", bool: "a boolean", type(None): "null"}.get(type(row), "a number")
    if isinstance(row, str) and row.lstrip().startswith("{"):
        return (
            "a string that holds an object",
            _CHAT_ROW,
            "remove the outer quotes: the row was encoded twice",
        )
    return kind, _CHAT_ROW, 'write the row as {"messages": [...]}'


def without_messages(row: dict[str, Any]) -> tuple[str, str, str]:
    """Found, expected, remedy for an object without `messages`: others are known by their keys."""
    if not row:
        return "an empty object", _CHAT_ROW, "delete the line or write the conversation"
    found = keys_shown(row)
    conversation = next((name for name in ("conversations", "conversation") if name in row), None)
    if conversation:
        return (
            f'the key "{conversation}"',
            '"messages"',
            _conversation_remedy(row[conversation], conversation),
        )
    if _is_preference(row):
        remedy = (
            "this is a preference pair (DPO): train it with objective=dpo, or keep the preferred "
            "answer as an assistant message"
        )
        return found, _CHAT_ROW, remedy
    for asked, answered, name in _PAIRS:
        if asked in row and answered in row:
            return found, _CHAT_ROW, _pair_remedy(row, asked, answered, name)
    return found, _CHAT_ROW, _other_remedy(row)


def not_a_preference(row: object) -> tuple[str, str, str]:
    """Found, expected, remedy for a line that is no preference row, by what it looks like."""
    remedy = (
        'write {"input": {"messages": [...]}, "preferred_output": [...], '
        '"non_preferred_output": [...]}'
    )
    if not isinstance(row, dict):
        return not_an_object(row)[0], _PREFERENCE_ROW, remedy
    if "messages" in row:
        remedy = "this is a chat row with one answer: train it with objective=sft, or " + remedy
    elif {"chosen", "rejected"} <= row.keys():
        remedy = (
            'rename "prompt" to "input": {"messages": [...]}, "chosen" to "preferred_output" and '
            '"rejected" to "non_preferred_output", each answer a list of one assistant message'
        )
    return keys_shown(row) if row else "an empty object", _PREFERENCE_ROW, remedy


def _conversation_remedy(turns: object, name: str) -> str:
    first = turns[0] if isinstance(turns, list) and turns else None
    if isinstance(first, dict) and "role" in first:
        return f'rename "{name}" to "messages"'
    return (
        f'this looks like ShareGPT: rename "{name}" to "messages", "from" to "role", '
        '"value" to "content", and the roles "human" to "user", "gpt" to "assistant"'
    )


def _is_preference(row: dict[str, Any]) -> bool:
    return {"chosen", "rejected"} <= row.keys() or "preferred_output" in row


def _pair_remedy(row: dict[str, Any], asked: str, answered: str, name: str) -> str:
    if isinstance(row[asked], list) and isinstance(row[answered], list):
        return f'this looks like {name} of messages: join both lists, in order, under "messages"'
    question = f"{asked} and input" if asked == "instruction" and "input" in row else asked
    return (
        f'this looks like {name}: write {{"messages": [{{"role": "user", "content": '
        f'<{question}>}}, {{"role": "assistant", "content": <{answered}>}}]}}'
    )


def _other_remedy(row: dict[str, Any]) -> str:
    body = row.get("body")
    if isinstance(body, dict) and "messages" in body:
        return 'this looks like a batch request: keep only the "messages" and "tools" of "body"'
    if "contents" in row:
        return (
            'this looks like Gemini: rename "contents" to "messages", "parts" to "content", '
            'and the role "model" to "assistant"'
        )
    if "role" in row and "content" in row:
        return 'this is a single message: collect the messages of a conversation under "messages"'
    if "text" in row:
        return 'this looks like plain text: split it into turns under "messages"'
    meant = next((key for key in row if close_match(key, ("messages",))), None)
    if meant:
        return f'rename {quoted(meant)} to "messages"'
    return 'add "messages": a list of {"role": ..., "content": ...}'

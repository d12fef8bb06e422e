"""Rows that are chats already: sound lines pass as they are, legacy functions become tools."""

from __future__ import annotations

from typing import Any

from tanren.chat import Example, parse_object
from tanren.chat.row import IGNORED_KEYS
from tanren.data.convert.records import Record
from tanren.data.convert.shapes import Answer, Kit, RowShape
from tanren.data.convert.sharegpt import decoded_turns, read_tools

CHAT_KEYS = frozenset(("messages", "tools", "parallel_tool_calls", "functions", *IGNORED_KEYS))
_LEGACY = "rows whose legacy functions became tools"


class Chats(RowShape):
    """Keys of the row that the chat format does not have are left out, and counted as unused
    columns.
    """

    said = "chat: messages with role/content"

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit, CHAT_KEYS)

    def read(self, value: dict[str, Any], record: Record) -> Answer:
        if self._is_plain(value) and record.raw is not None:
            example = parse_object(value, source=self._kit.name, line=record.line)
            if isinstance(example, Example):
                return record.raw
        row = {key: item for key, item in value.items() if key in CHAT_KEYS and item is not None}
        if isinstance(row.get("tools"), str):
            row["tools"] = read_tools(row["tools"])
        row["messages"] = messages = decoded_turns(row.get("messages"))
        if not isinstance(messages, list):
            return row  # what is wrong with it is told by the chat format itself
        row["messages"] = self.with_system(messages, value)
        return self._modern(row, record) if _is_legacy(row) else row

    def _is_plain(self, value: dict[str, Any]) -> bool:
        messages = value.get("messages")
        return (
            self._system is None
            and value.keys() <= CHAT_KEYS
            and isinstance(messages, list)
            and not isinstance(value.get("tools"), str)
            and not _is_legacy(value)
        )

    def _modern(self, row: dict[str, Any], record: Record) -> dict[str, Any]:
        """The normalised row: calls with ids, their answers, `tools`."""
        example = parse_object(row, source=self._kit.name, line=record.line)
        if not isinstance(example, Example):
            return row
        self._tally[_LEGACY] += 1
        made: dict[str, Any] = {"messages": list(example.messages)}
        if example.tools:
            made["tools"] = list(example.tools)
        if example.parallel_tool_calls is not None:
            made["parallel_tool_calls"] = example.parallel_tool_calls
        return made | {key: row[key] for key in example.ignored_keys}


def _is_legacy(row: dict[str, Any]) -> bool:
    return bool(row.get("functions")) or any(
        isinstance(message, dict)
        and (message.get("function_call") is not None or message.get("role") == "function")
        for message in row["messages"]
    )

"""Rows of a question and an answer: any two columns, templates, and OpenAI's prompt/completion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tanren.data.convert.mapping import Template, Text, read_template_file, text_of
from tanren.data.convert.records import LeftOut, Record
from tanren.data.convert.shapes import Kit, Messages, RowShape, answered
from tanren.strict_json import escape, quoted


class Pairs(RowShape):
    """`user` and `assistant` say where the two texts come from."""

    def __init__(self, kit: Kit, user: Text, assistant: Text, said: str) -> None:
        both = None
        if user.columns is not None and assistant.columns is not None:
            both = user.columns | assistant.columns
        super().__init__(kit, both)
        self._user = user
        self._assistant = assistant
        self.said = said

    @classmethod
    def named(cls, kit: Kit, user: str, assistant: str) -> Pairs:
        asked = text_of(user, "--user", kit.columns, fixed=kit.fixed, cells=kit.cells)
        answer = text_of(assistant, "--assistant", kit.columns, fixed=kit.fixed, cells=kit.cells)
        said = f"columns: user {quoted(user)}, assistant {quoted(assistant)}{kit.system_said()}"
        return cls(kit, asked, answer, said)

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        user, assistant = self._user(value), self._assistant(value)
        messages = self.begun(value) if self._system is not None else []
        messages += (self.asked(user), answered(assistant))
        return {"messages": messages}


class FromTemplates(RowShape):
    """A template per message. A system message that comes out blank is left out, counted."""

    def __init__(self, kit: Kit) -> None:
        path = kit.settings.template
        assert path is not None
        columns = kit.columns if kit.fixed else None
        self._parts = [
            (role, Template(text, f"{path} messages[{index}]", columns, kit.cells))
            for index, (role, text) in enumerate(read_template_file(path))
        ]
        used: frozenset[str] | None = frozenset()
        for _, template in self._parts:
            used = None if used is None or template.columns is None else used | template.columns
        super().__init__(kit, used)
        self.said = f"the templates of {path}: {', '.join(role for role, _ in self._parts)}"

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        messages: Messages = []
        for role, template in self._parts:
            text = template(value)
            if role == "assistant":
                messages.append(answered(text))
            elif role == "user":
                messages.append(self.asked(text))
            elif text and not text.isspace():
                messages.append({"role": role, "content": text})
            else:
                self._tally["blank system messages left out"] += 1
        return {"messages": self.with_system(messages, value)}


# --- prompt and completion ---

_SEPARATOR = re.compile(r"[\s#=>|*~-]*[#=>|*~-][\s#=>|*~-]*\Z")
_STOP = re.compile(r"(?:\s+(?:END|STOP)|\s*(?:#{2,}|<\|endoftext\|>|</s>|\[DONE\]))\s*\Z")


def separator_of(prompts: Sequence[str]) -> str:
    """What ends every prompt and is no text: `\\n\\n###\\n\\n`, ` ->`; "" for nothing."""
    match = _SEPARATOR.search(_common_end(prompts))
    found = match[0] if match else ""
    return found if len(found.strip()) > 1 or "\n" in found else ""


def stop_of(completions: Sequence[str]) -> str:
    """What ends every completion as a stop sign: ` END`, `###`; "" for nothing."""
    match = _STOP.search(_common_end(completions))
    return match[0] if match else ""


def _common_end(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    low, high = min(t[::-1] for t in texts), max(t[::-1] for t in texts)  # the two least alike
    same = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[:same][::-1]


class Completions(RowShape):
    """Prompts without their separator, completions without stop sign and leading space. Those were
    marks for a model without turns; the chat template sets turns now.
    """

    def __init__(
        self, kit: Kit, user: str, assistant: str, sample: Sequence[dict[str, Any]]
    ) -> None:
        super().__init__(kit, frozenset((user, assistant)))
        self._names = user, assistant
        asked = [t for row in sample if isinstance(t := row.get(user), str) and t]
        given = [t for row in sample if isinstance(t := row.get(assistant), str) and t]
        self._separator, self._stop = separator_of(asked), stop_of(given)
        self._space = bool(given) and all(text.startswith(" ") for text in given)
        self.said = f"prompt/completion: {quoted(user)} and {quoted(assistant)}"
        self.said += self._stripped() + kit.system_said()

    def _stripped(self) -> str:
        parts = []
        if self._separator:
            parts.append(f'the separator "{escape(self._separator)}"')
        if self._stop:
            parts.append(f'the stop sign "{escape(self._stop)}"')
        if self._space:
            parts.append("the leading space of completions")
        return "; removed: " + ", ".join(parts) if parts else ""

    def read(self, value: dict[str, Any], record: Record) -> dict[str, Any]:
        user, assistant = self._names
        prompt, completion = value.get(user), value.get(assistant)
        if type(prompt) is list or type(completion) is list:
            return self._of_messages(prompt, completion, value)
        prompt = self._bare(prompt, self._separator, "prompts without the separator")
        completion = self._bare(completion, self._stop, "completions without the stop sign")
        if self._space and type(completion) is str:
            completion = completion[1:] if completion.startswith(" ") else completion
        asked, given = self._cells.text(prompt, user), self._cells.text(completion, assistant)
        messages = self.begun(value) if self._system is not None else []
        messages += (self.asked(asked), answered(given))
        return {"messages": messages}

    def _bare(self, text: object, end: str, without: str) -> object:
        if not end or type(text) is not str:
            return text
        if text.endswith(end):
            return text[: -len(end)]
        self._tally[without] += 1
        return text

    def _of_messages(self, prompt: Any, completion: Any, value: dict[str, Any]) -> dict[str, Any]:
        """Both as lists of messages: one conversation."""
        if type(prompt) is str:
            prompt = [self.asked(self._cells.text(prompt, self._names[0]))]
        if type(completion) is str:
            completion = [answered(self._cells.text(completion, self._names[1]))]
        if not isinstance(prompt, list) or not isinstance(completion, list):
            expected, remedy = "text or a list of messages", "write both in the same way"
            raise LeftOut("a row of another shape", ("", "neither", expected, remedy))
        return {"messages": self.with_system(prompt + completion, value)}

"""What a person should hear about rows that are trained all the same."""

from __future__ import annotations

from tanren.chat import Example
from tanren.encode.ledger import Ledger
from tanren.template import ChatRenderer, Rendered

_EMPTY_REASONING = "<think>\n\n</think>"


class RowNotes:
    """Books each trained row's oddities in the ledger."""

    def __init__(self, renderer: ChatRenderer, ledger: Ledger) -> None:
        self._renderer = renderer
        self._ledger = ledger
        self._special_text = renderer.added_tokens.special_text

    def book(self, example: Example, rendered: list[Rendered]) -> None:
        ledger, facts = self._ledger, self._renderer.facts
        where = f"{example.source}:{example.line}"
        ledger.split_rows += rendered[0].split
        if self._has_special_text(example):
            ledger.special_text.add(where)
        if rendered[-1].last_turn < len(example.messages) - 1:
            ledger.unused_tail.add(where)
        if example.tools and facts.tools != "written":
            ledger.tools_left_out.add(where)
        if facts.developer == "as system" and any(
            message["role"] == "developer" for message in example.messages
        ):
            ledger.developer_as_system.add(where)
        if any(one.left_out for one in rendered):
            ledger.left_out.add(where)
        self._book_reasoning(rendered, where)

    def book_typed_tokens(self, example: Example, *, unless: Example) -> None:
        """The other half of a row, where the half that is booked has no such text."""
        if self._has_special_text(example) and not self._has_special_text(unless):
            self._ledger.special_text.add(f"{example.source}:{example.line}")

    def _has_special_text(self, example: Example) -> bool:
        search = self._special_text.search
        return any(
            search(message["content"]) or search(message.get("reasoning_content", ""))
            for message in example.messages
        )

    def _book_reasoning(self, rendered: list[Rendered], where: str) -> None:
        ledger = self._ledger
        for one in rendered:
            for reasoning in one.lost_reasoning:
                ledger.lost_reasoning_tokens += self._tokens_in(reasoning)
            for reasoning in one.own_lost_reasoning:
                ledger.own_lost_reasoning_tokens += self._tokens_in(reasoning)
        if any(one.text.startswith(_EMPTY_REASONING, at) for one in rendered for at in one.prompts):
            ledger.empty_reasoning.add(where)

    def _tokens_in(self, text: str) -> int:
        return len(self._renderer.token_ids(text))

"""An answer's tokens as text and calls of tools, each as soon as it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tanren.engine.served import Served
from tanren.engine.structure.tool_format import ToolFormat
from tanren.engine.structure.tool_reader import Call, Text, ToolReader
from tanren.generate.pieces import StopCut, TextPieces


class AnswerText:
    """Whole characters, nothing past a stop text, and calls taken out where `tools` are read.

    Special tokens have no text, but for those that the model's form of calls is made of.
    """

    def __init__(
        self, served: Served, stops: Sequence[str], tools: Sequence[dict[str, Any]] | None
    ) -> None:
        form: ToolFormat | None = served.form if tools else None
        self._served = served
        self._characters = TextPieces(served.tokenizer)
        self._stops = StopCut(stops)
        self._reader = None if form is None else ToolReader(form, tools or ())
        self._visible = frozenset() if form is None else form.visible_ids

    @property
    def stopped(self) -> bool:
        """A stop text was written."""
        return self._stops.hit

    def push(self, token_id: int) -> list[Text | Call]:
        if token_id in self._visible:
            text = self._characters.rest(cut=False) + self._served.bytes_of.text(token_id)
            self._characters = TextPieces(self._served.tokenizer)
        else:
            text = self._characters.push(token_id)
        return self._read(self._stops.push(text))

    def end(self, *, cut: bool) -> list[Text | Call]:
        """What was held back. `cut`: a limit ended the answer, perhaps within a character."""
        read: list[Text | Call] = []
        if not self._stops.hit:
            read += self._read(self._stops.push(self._characters.rest(cut=cut)))
            read += self._read(self._stops.rest())
        if self._reader is not None:
            read += self._reader.rest()
        return read

    def _read(self, text: str) -> list[Text | Call]:
        if not text:
            return []
        return [Text(text)] if self._reader is None else self._reader.push(text)

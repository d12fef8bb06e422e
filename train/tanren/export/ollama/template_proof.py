"""Compares what Ollama would make of a template with what the model was trained on (T1, T17)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tanren.errors import Fault, ProofError
from tanren.export.ollama import server
from tanren.export.ollama.conversations import CONVERSATIONS, Conversation
from tanren.export.ollama.go_template import GoTemplate
from tanren.export.ollama.go_tokens import GoTemplateError
from tanren.export.ollama.probe import Prompts
from tanren.template import ChatRenderer

# Characters shown on each side of the first difference.
_SIGHT = 40


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One conversation. `joined`: Ollama joined messages of one role before the template saw them,
    and the chat template was given the joined ones.

    equal       text and token ids are those of the chat template
    refused     the chat template refuses the conversation; `detail` says what Ollama does
    different   `detail` says where
    """

    conversation: str
    outcome: Literal["equal", "refused", "different"]
    joined: bool
    detail: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class TemplateProof:
    """Ten rows. `passed`: some are equal, none is different."""

    rows: tuple[ProofRow, ...]

    @property
    def passed(self) -> bool:
        outcomes = [row.outcome for row in self.rows]
        return "equal" in outcomes and "different" not in outcomes

    def as_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "rows": [asdict(row) for row in self.rows]}

    def require(self, where: str) -> None:
        """Raises ProofError, with a fault for each conversation that is different."""
        faults = [
            Fault(
                where=f"{where} on the conversation {row.conversation!r}",
                found=row.detail,
                expected="the chat template's prompt, character by character",
                remedy="mend the template, or serve the model with a program that reads the chat "
                "template itself",
            )
            for row in self.rows
            if row.outcome == "different"
        ]
        if faults:
            raise ProofError("the Ollama template differs from the chat template", faults)
        if not self.passed:
            raise ProofError(f"{where}: the chat template refuses every conversation of the proof")


def prove(
    template_text: str, renderer: ChatRenderer, *, server_adds_bos: bool | None = None
) -> TemplateProof:
    """Renders the ten conversations both ways.

    `server_adds_bos` is what the GGUF file tells the server to do; None means what is right for the
    model: where the chat template begins with a BOS, the server writes it and the Ollama template
    does not. Raises ProofError where Go cannot parse the template.
    """
    adds_bos = renderer.facts.adds_bos if server_adds_bos is None else server_adds_bos
    comparison = Comparison(template_text, renderer, server_adds_bos=adds_bos)
    return TemplateProof(tuple(comparison.row(each) for each in CONVERSATIONS))


class Comparison:
    """One template against one renderer."""

    def __init__(
        self, template_text: str, renderer: ChatRenderer, *, server_adds_bos: bool
    ) -> None:
        try:
            self._template = GoTemplate(template_text)
        except GoTemplateError as error:
            raise ProofError(f"the Ollama template cannot be parsed: {error}") from error
        self._renderer = renderer
        self._prompts = Prompts(renderer, server_adds_bos=server_adds_bos)
        self._server_adds_bos = server_adds_bos

    def row(self, conversation: Conversation) -> ProofRow:
        name, messages = conversation
        turns = server.collated(messages)
        joined = len(turns) < len(messages)
        wanted = self._prompts.text(turns)
        try:
            found = server.prompt(self._template, messages)
        except GoTemplateError as error:
            if wanted is None:
                return ProofRow(name, "refused", joined, f"Ollama answers with: {error}", 0)
            return ProofRow(name, "different", joined, f"an error: {error}", 0)
        if wanted is None:
            return ProofRow(name, "refused", joined, "Ollama writes a prompt all the same", 0)
        if found != wanted:
            return ProofRow(name, "different", joined, first_difference(found, wanted), 0)
        return self._ids_row(name, turns, found, joined)

    def _ids_row(
        self, name: str, turns: list[dict[str, Any]], found: str, joined: bool
    ) -> ProofRow:
        wanted = self._renderer.prompt_ids(turns)
        ids = self._renderer.token_ids(found)
        bos = self._renderer.tokenizer.bos_token_id
        if self._server_adds_bos and bos is not None:
            ids = [bos, *ids]
        if ids != wanted:
            place = next(
                (i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b),
                min(len(ids), len(wanted)),
            )
            detail = f"other token ids from token {place} on: {ids[place : place + 4]}, not "
            return ProofRow(name, "different", joined, f"{detail}{wanted[place : place + 4]}", 0)
        return ProofRow(name, "equal", joined, "", len(ids))

    def agrees(
        self, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> bool | None:
        """Are the texts equal? None where the chat template refuses the conversation."""
        wanted = self._prompts.text(server.collated(messages), list(tools) or None)
        if wanted is None:
            return None
        try:
            return server.prompt(self._template, messages, tools) == wanted
        except GoTemplateError:
            return False

    def writes(self, messages: list[dict[str, Any]]) -> bool:
        """Does the Ollama template write the conversation at all?"""
        try:
            server.prompt(self._template, messages)
        except GoTemplateError:
            return False
        return True


def first_difference(found: str, wanted: str) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    start = max(0, place - _SIGHT)
    return (
        f"at character {place} {found[start : place + _SIGHT]!r}, "
        f"where the chat template writes {wanted[start : place + _SIGHT]!r}"
    )

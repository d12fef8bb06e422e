"""Reads a template's `Shape` from what it renders of small conversations with marked contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from tanren.errors import DataError, Fault, ModelError
from tanren.export.ollama.shape import Cutting, Reasoning, Shape, System, Trim, Turn
from tanren.template import ChatRenderer

Message = dict[str, Any]

# Words that no template writes itself; one for each message of a conversation.
_WORDS = ("Oneclover", "Twolantern", "Threeotter", "Fourwillow", "Fivepebble")
_THOUGHT = "Sixthought"
_ROLES = {"s": "system", "u": "user", "a": "assistant"}

# What shows how contents are trimmed: a line break outside, an ideographic space inside.
_LEFT, _RIGHT = "\n\u3000 ", " \u3000\n"


@dataclass(frozen=True, slots=True)
class Look:
    """A rendered conversation: which messages came in which order, and the text around them."""

    order: tuple[int, ...]
    gaps: tuple[str, ...]


class Prompts:
    """The renderer's prompts, without the BOS where the server writes that (T17)."""

    def __init__(self, renderer: ChatRenderer, *, server_adds_bos: bool) -> None:
        self.renderer = renderer
        written = server_adds_bos and renderer.facts.adds_bos
        self._bos = (renderer.tokenizer.bos_token or "") if written else ""

    def text(
        self, messages: Sequence[Message], tools: Sequence[Message] | None = None
    ) -> str | None:
        """The prompt, or None where the template refuses the conversation."""
        try:
            return self.renderer.prompt(messages, tools).removeprefix(self._bos)
        except DataError:
            return None

    def look(self, roles: str) -> Look | None:
        """The rendering of a conversation such as "sua"; None where it is refused."""
        return look_at(self.text(marked(roles)), _WORDS[: len(roles)])


def marked(roles: str) -> list[Message]:
    """Messages of the roles named by their first letters, each with a word of its own."""
    return [{"role": _ROLES[r], "content": w} for r, w in zip(roles, _WORDS, strict=False)]


def look_at(text: str | None, words: Sequence[str]) -> Look | None:
    """Where the words stand in a text. A word that is there twice makes it unreadable: None."""
    if text is None or any(text.count(word) > 1 for word in words):
        return None
    order = sorted((i for i, word in enumerate(words) if word in text), key=lambda i: text.index(
        words[i]))  # fmt: skip
    gaps, rest = [], text
    for index in order:
        gap, _, rest = rest.partition(words[index])
        gaps.append(gap)
    return Look(tuple(order), (*gaps, rest))


class ShapeProbe:
    """Asks one question after the other. Raises ModelError where an answer fits no `Shape`."""

    def __init__(self, renderer: ChatRenderer, *, server_adds_bos: bool) -> None:
        self._renderer = renderer
        bos = renderer.tokenizer.bos_token if renderer.facts.adds_bos else None
        self._bos = "" if server_adds_bos else bos or ""
        # The rest of the shape is the same whoever writes the BOS.
        self._prompts = Prompts(renderer, server_adds_bos=True)

    def shape(self) -> Shape:
        one, three = self._needed("u"), self._needed("uau")
        first, between, back, end = *one.gaps[:1], three.gaps[1], three.gaps[2], three.gaps[3]
        after_assistant = self._end_of_reply(back)
        before_user = back[len(after_assistant) :]
        if not first.endswith(before_user):
            before_user = _common_suffix(first, back)
            after_assistant = back.removesuffix(before_user)
        ended = self._prompts.look("ua")
        prompt, prompt_after_reply = _prompts_of(end, ended, after_assistant)
        after_user = end.removesuffix(prompt)
        if not between.startswith(after_user):
            after_user = common_prefix(end, between)
            prompt = end[len(after_user) :]
        user = Turn(before_user, self._trim("u", 0, first), after_user)
        before = between.removeprefix(after_user)
        assistant = Turn(before, self._trim("uau", 1, between), after_assistant)
        shape = Shape(
            bos=self._bos,
            opening=first.removesuffix(before_user),
            system=self._system(first.removesuffix(before_user), user, assistant),
            user=user,
            assistant=assistant,
            last_assistant=self._last_assistant(ended, user, assistant),
            prompt=prompt,
            prompt_after_reply=prompt_after_reply,
            prompt_no_thinking=None,
            reasoning=None,
            last_reasoning=None,
        )
        return self._with_reasoning(shape)

    def _needed(self, roles: str) -> Look:
        look = self._prompts.look(roles)
        if look is None or look.order != tuple(range(len(roles))):
            refused = self._prompts.text(marked(roles)) is None
            found = "refuses it" if refused else "leaves out, repeats or reorders messages"
            names = ", ".join(_ROLES[role] for role in roles)
            raise self._unfit(f"a chat template that {found} where the messages are {names}")
        return look

    def _unfit(self, found: str) -> Exception:
        return ModelError.of(
            Fault(
                where=f"chat template ({self._renderer.facts.origin})",
                found=found,
                expected="one that writes each message at its place, with text around it",
                remedy="export to merged or gguf, and serve it with a program that reads the chat "
                "template itself (vLLM, llama.cpp's server)",
            )
        )

    def _end_of_reply(self, back: str) -> str:
        """What of the text between a reply and the next question belongs to the reply."""
        end = common_prefix(back, self._renderer.facts.reply_suffix)
        if end == self._renderer.facts.reply_suffix:
            return end
        token = self._renderer.added_tokens.last(end)
        if token is None:
            return end
        behind = end[token.end :]
        return end[: token.end] + behind[: len(behind) - len(behind.lstrip())]

    def _last_assistant(self, ended: Look | None, user: Turn, usual: Turn) -> Turn:
        if ended is None or ended.order != (0, 1):
            return usual
        before = ended.gaps[1].removeprefix(user.after)
        usually = ended.gaps[2].startswith(usual.after)
        after = usual.after if usually else ended.gaps[2]
        return Turn(before, self._trim("ua", 1, ended.gaps[1]), after)

    # --- white space ---

    def _trim(self, roles: str, index: int, gap: str) -> Trim:
        """What the template trims of message `index`; `gap` is the text in front of it."""
        messages = marked(roles)
        plain = self._prompts.text(messages)
        padded = [dict(message) for message in messages]
        padded[index]["content"] = _LEFT + _WORDS[index] + _RIGHT
        text = self._prompts.text(padded)
        if plain is None or text is None:
            return Trim()
        start = plain.index(_WORDS[index])
        behind = plain[start + len(_WORDS[index]) :]
        left, right = text[start:].partition(_WORDS[index])[::2]
        if len(behind):
            right = right.removesuffix(behind)
        return Trim(self._cutting(left, _LEFT), self._cutting(right[::-1], _RIGHT[::-1]))

    def _cutting(self, kept: str, given: str) -> Cutting:
        cuts = {given: "", "": "space", given.lstrip("\n"): "newline"}
        cutting = cuts.get(kept)
        if cutting is None or cutting not in get_args(Cutting):
            raise self._unfit(f"white space {given!r} that is written as {kept!r}")
        return cutting  # type: ignore[return-value]

    # --- system messages ---

    def _system(self, opening: str, user: Turn, assistant: Turn) -> System:
        two = self._prompts.look("su")
        if two is None:
            later = self._later(user, assistant)
            return System("refused", Turn("", Trim(), ""), None, Trim(), later)
        if two.order != (0, 1):
            return System("left out", Turn("", Trim(), ""), None, Trim(), "left out")
        lead, join, _ = two.gaps
        trim = self._trim("su", 0, lead)
        later = self._later(user, assistant)
        if self._prompts.look("uasu") == self._prompts_moved():
            place: Any = "top"
        elif self._system_goes_last():
            place = "last user"
        else:
            place = "turn" if join.endswith(user.before) else "first user"
        after = join.removesuffix(user.before) if place in ("turn", "top") else join
        turn = Turn(lead, trim, after)
        empty = self._empty_system(place, turn, opening, user)
        question = self._trim("su", 1, join)
        return System(place, turn, empty, question, later)

    def _empty_system(self, place: str, turn: Turn, opening: str, user: Turn) -> str | None:
        messages = marked("su")
        text = self._prompts.text([{**messages[0], "content": ""}, messages[1]])
        if text is None:
            return None
        lead = text.partition(_WORDS[1])[0]
        begins = user.before if place in ("turn", "top") else ""
        if lead == turn.before + turn.after + begins:
            return None
        if place != "turn":
            return "" if lead == opening + user.before else None
        return lead.removesuffix(user.before)

    def _prompts_moved(self) -> Look | None:
        """What "uasu" looks like where the system message always goes to the top."""
        top = self._prompts.look("suau")
        if top is None or top.order != (0, 1, 2, 3):
            return Look((), ())
        return replace(top, order=(2, 0, 1, 3))

    def _system_goes_last(self) -> bool:
        four = self._prompts.look("suau")
        return four is not None and four.order == (1, 2, 0, 3)

    def _later(self, user: Turn, assistant: Turn) -> Any:
        four = self._prompts.look("uasu")
        if four is None:
            return None
        if four.order != (0, 1, 2, 3):
            return "left out"
        before = four.gaps[2].removeprefix(assistant.after)
        return Turn(before, self._trim("uasu", 2, four.gaps[2]),
                    four.gaps[3].removesuffix(user.before))  # fmt: skip

    # --- reasoning ---

    def _with_reasoning(self, shape: Shape) -> Shape:
        facts = self._renderer.facts
        if facts.thinking_on is False:
            return shape
        return replace(
            shape,
            prompt_no_thinking=self._prompt_no_thinking(shape),
            reasoning=self._reasoning("uau", shape.user),
            last_reasoning=self._reasoning("ua", shape.user),
        )

    def _prompt_no_thinking(self, shape: Shape) -> str | None:
        """The prompt's end where the template's own switch turns reasoning off."""
        facts = self._renderer.facts
        if facts.thinking_switch is None:
            return None
        other = ChatRenderer(
            self._renderer.tokenizer,
            thinking=False,
            date=facts.date,
            template=self._renderer.template,
        )
        look = Prompts(other, server_adds_bos=True).look("u")
        if look is None or not look.gaps[1].startswith(shape.user.after):
            return None
        return look.gaps[1].removeprefix(shape.user.after)

    def _reasoning(self, roles: str, user: Turn) -> Reasoning | None:
        messages = marked(roles)
        messages[1]["reasoning_content"] = _THOUGHT
        look = look_at(self._prompts.text(messages), (_WORDS[0], _THOUGHT, *_WORDS[1:3]))
        if look is None or look.order[:3] != (0, 1, 2) or not look.gaps[1].startswith(user.after):
            return None
        messages[1]["reasoning_content"] = _LEFT + _THOUGHT + _RIGHT
        padded = self._prompts.text(messages) or ""
        front = look.gaps[0] + _WORDS[0] + look.gaps[1]
        left, right = padded.removeprefix(front).partition(_THOUGHT)[::2]
        right = right.partition(_WORDS[1])[0].removesuffix(look.gaps[2])
        trim = Trim(self._cutting(left, _LEFT), self._cutting(right[::-1], _RIGHT[::-1]))
        return Reasoning(look.gaps[1].removeprefix(user.after), trim, look.gaps[2])


def _prompts_of(end: str, ended: Look | None, after_assistant: str) -> tuple[str, str]:
    """(text that opens the next reply after a question, the same after a reply)."""
    if ended is not None and ended.order == (0, 1):
        # Where a last reply ends otherwise (Llama 2 begins a new `<s>` with each question), its
        # whole end belongs to the turn.
        if not ended.gaps[2].startswith(after_assistant):
            return end, ""
        after_reply = ended.gaps[2].removeprefix(after_assistant)
        return (after_reply if end.endswith(after_reply) else end), after_reply
    prompt = end.removeprefix(after_assistant)
    return prompt, prompt


def common_prefix(one: str, other: str) -> str:
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:length]
    return one[: min(len(one), len(other))]


def _common_suffix(one: str, other: str) -> str:
    return common_prefix(one[::-1], other[::-1])[::-1]

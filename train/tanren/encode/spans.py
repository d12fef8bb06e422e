"""From trained characters to trained tokens, with proof that prompts are inference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tanren.template import ChatRenderer, Rendered, backend_of

if TYPE_CHECKING:
    from tokenizers import Encoding

_KEPT_TAILS = 10_000
_KEPT_TAIL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One training sequence: token ids, and the trained tokens as [start, end) spans in order."""

    ids: list[int]
    spans: list[tuple[int, int]]

    def trained_before(self, limit: int) -> int:
        """Trained tokens among the first `limit`."""
        return sum(max(0, min(end, limit) - start) for start, end in self.spans)


class SpanTokens:
    """Finds the tokens of `Rendered.spans` in an encoded text.

    A text is encoded whole, so the tokens before a reply could differ from those that inference
    gets when it encodes the prompt alone. They cannot differ before the last added token of the
    prompt: a tokenizer cuts those out first. So only the few characters from there to the reply
    are encoded once more and compared; where a prompt has no added token, the whole prompt is.
    """

    def __init__(self, renderer: ChatRenderer) -> None:
        self._backend = backend_of(renderer.tokenizer)
        self._added = renderer.added_tokens.ids
        self._stops = frozenset(renderer.facts.stop_ids)
        self._whole_replies = not renderer.facts.has_generation_markers
        self._tails: dict[str, list[int]] = {}

    def sequence(self, encoding: Encoding, rendered: Rendered) -> TokenSequence | None:
        """None where a token joins a prompt's end and its reply's start: nothing is proven."""
        ids: list[int] = encoding.ids
        starts = [self._prompt_length(encoding, ids, rendered.text, p) for p in rendered.prompts]
        if None in starts:
            return None
        if self._whole_replies:
            ends = [self._end_of_turn(encoding, ids, end) for _, end in rendered.spans]
            spans = [(s, e) for s, e in zip(starts, ends, strict=True) if s is not None and e]
            return TokenSequence(ids, spans) if len(spans) == len(ends) else None
        return TokenSequence(ids, self._inner_spans(encoding, ids, rendered.spans))

    def joined(self, rendered: Rendered, whole: Encoding) -> TokenSequence | None:
        """The ids of the prompt followed by the ids of the reply, for a text with one trained turn.

        That is what inference works with, also where encoding the whole text joins the two. None
        where the joined ids do not read the same, or end in no token that stops.
        """
        (cut,) = rendered.prompts
        prompt = self._encode(rendered.text[:cut]).ids
        reply = self._encode(rendered.text[cut:])
        ids = prompt + reply.ids
        read = self._backend.decode(ids, skip_special_tokens=False)
        if read != rendered.text and read != self._backend.decode(
            whole.ids, skip_special_tokens=False
        ):
            return None
        if self._whole_replies:
            return TokenSequence(ids, [(len(prompt), len(ids))]) if ids[-1] in self._stops else None
        shifted = tuple((start - cut, end - cut) for start, end in rendered.spans)
        inner = self._inner_spans(reply, reply.ids, shifted)
        return TokenSequence(ids, [(s + len(prompt), e + len(prompt)) for s, e in inner])

    def _encode(self, text: str) -> Encoding:
        return self._backend.encode(text, add_special_tokens=False)

    def _prompt_length(
        self, encoding: Encoding, ids: list[int], text: str, prompt: int
    ) -> int | None:
        """Tokens of `text[:prompt]` in `ids`; None where they are not those of the prompt alone."""
        first = _token_at_or_before(encoding, prompt - 1)
        while first > 0 and ids[first] not in self._added:
            first -= 1
        place = encoding.token_to_chars(first) if first > 0 else None
        expected = self._tail_ids(text[place[0] if place else 0 : prompt])
        length = first + len(expected)
        return length if ids[first:length] == expected else None

    def _tail_ids(self, tail: str) -> list[int]:
        ids = self._tails.get(tail)
        if ids is None:
            ids = list(self._encode(tail).ids)
            if len(tail) <= _KEPT_TAIL_CHARACTERS and len(self._tails) < _KEPT_TAILS:
                self._tails[tail] = ids
        return ids

    def _end_of_turn(self, encoding: Encoding, ids: list[int], end: int) -> int | None:
        """The token after the end of turn; None where the tokenizer saw nothing that stops."""
        token = encoding.char_to_token(end - 1)
        return token + 1 if token is not None and ids[token] in self._stops else None

    def _inner_spans(
        self, encoding: Encoding, ids: list[int], spans: tuple[tuple[int, int], ...]
    ) -> list[tuple[int, int]]:
        """Tokens that lie wholly within spans that a template's own markers set.

        An added token may have swallowed white space behind it (Phi-3's do) and counts.
        """
        found: list[tuple[int, int]] = []
        for start, end in spans:
            inside = [
                token
                for token, (first, last) in enumerate(encoding.offsets)
                if start <= first < end and (last <= end or ids[token] in self._added)
            ]
            if inside:
                found.append((inside[0], inside[-1] + 1))
        return found


def _token_at_or_before(encoding: Encoding, position: int) -> int:
    """The token of the last character up to `position` that has one (normalising removes some)."""
    while position >= 0:
        token = encoding.char_to_token(position)
        if token is not None:
            return token
        position -= 1
    return 0

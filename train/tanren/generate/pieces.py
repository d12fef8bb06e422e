"""Text from tokens while they arrive: whole characters only, and nothing past a stop text.

A token of a byte-level or byte-fallback vocabulary may hold a part of a character, and decoders
drop the space before the first word, so a token has a text only beside its neighbours. The joined
pieces equal the decoded whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# What decoders write for bytes that are no character, or not one yet.
REPLACEMENT = "\ufffd"


def decode_text(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text as a reader sees it: no special tokens, no spaces tidied before punctuation."""
    if (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and type(tokenizer)._decode is PreTrainedTokenizerFast._decode
    ):  # what `decode` comes to, at a tenth of its price for the token or two of a step
        return str(tokenizer.backend_tokenizer.decode(list(token_ids), skip_special_tokens=True))
    text = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def decode_answer(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], *, cut: bool
) -> str:
    """What `TextPieces` gives in pieces, for the price of one call. `cut` as in its `rest`."""
    text = decode_text(tokenizer, token_ids)
    if REPLACEMENT not in text:
        return text
    # One bad byte makes byte-fallback decoders give up the whole run of bytes around it, good
    # characters included; piece by piece these are kept.
    pieces = TextPieces(tokenizer)
    return "".join([*map(pieces.push, token_ids), pieces.rest(cut=cut)])


class TextPieces:
    """Decodes one answer token by token, each behind the tokens of the piece before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._shown: list[int] = []  # tokens of the last piece: the context of the pending ones
        self._shown_text = ""
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that is certain now; empty in mid-character and for special tokens."""
        self._pending.append(token_id)
        text = self._pending_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._shown, self._pending = self._pending, []
        self._shown_text = decode_text(self._tokenizer, self._shown)
        return text

    def rest(self, *, cut: bool) -> str:
        """What was held back, at the end of the answer.

        `cut` says that a limit ended it: then the bytes of a last, incomplete character (at most
        three) are left out. Otherwise the model itself ended in broken bytes; they show as U+FFFD.
        """
        text = self._pending_text()
        self._pending = []
        if not cut:
            return text
        incomplete = min(3, len(text) - len(text.rstrip(REPLACEMENT)))
        return text[: len(text) - incomplete]

    def _pending_text(self) -> str:
        both = decode_text(self._tokenizer, self._shown + self._pending)
        if both.startswith(self._shown_text):
            return both[len(self._shown_text) :]
        # A bad byte spoilt the run of bytes that the last piece ended with. The pending tokens
        # begin with that byte, so reading them alone loses no leading space.
        return decode_text(self._tokenizer, self._pending)


class StopCut:
    """Ends a text before the first stop text, however the text is cut into pieces.

    The stop text that is complete first wins; of two complete at the same character, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, piece: str) -> str:
        """What may be shown now. An end that could begin a stop text is held back."""
        if not self._stops or not piece:
            return piece
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        certain = len(text) - self._doubtful(text)
        self._held = text[certain:]
        return text[:certain]

    def rest(self) -> str:
        """What was held back and turned out to be no stop text."""
        held, self._held = self._held, ""
        return held

    def _doubtful(self, text: str) -> int:
        """Characters at the end of `text` that begin a stop text."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

"""One answer that is written under a grammar, and the masks of many of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from tanren.errors import WorkError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from llguidance import LLExecutor, LLMatcher
    from numpy.typing import NDArray


class Matcher:
    """Which tokens may come next in one answer.

    Stop tokens may come exactly when the text so far is complete.
    """

    def __init__(self, inner: LLMatcher, size: int) -> None:
        self.inner = inner
        self.size = size

    @property
    def complete(self) -> bool:
        """The text so far fulfils the constraint; more of it may be allowed."""
        return bool(self.inner.is_accepting())

    @property
    def finished(self) -> bool:
        """The text is complete and nothing but a stop token can follow: the answer may end now."""
        return bool(self.inner.is_stopped() and self.inner.is_accepting())

    @property
    def complaint(self) -> str:
        """Why the grammar cannot go on (some forms become too large only while they are followed);
        "" while it can. From then on nothing is allowed.
        """
        if self.finished or not self.inner.is_error():
            return ""
        return f"the form of the answer cannot be followed further: {self._last_words()}"

    def accept(self, token_id: int) -> None:
        """Takes the chosen token. Raises WorkError for one that the mask forbids, and where the
        grammar cannot go on (`complaint`).
        """
        if not self.inner.consume_token(token_id):
            forbidden = f"token {token_id} is not allowed at this place of the answer"
            raise WorkError(self.complaint or forbidden)

    def allowed(self) -> NDArray[np.bool_]:
        """The mask of the next token, shape (size,)."""
        return masks({0: self}, 1)[0]

    def _last_words(self) -> str:
        return " ".join(str(self.inner.get_error()).splitlines()[:1])[:200]


def bits(matchers: Mapping[int, Matcher], rows: int) -> NDArray[np.int32]:
    """The masks of the next tokens, 32 tokens a word, lowest bit first: (rows, words).

    `matchers`: by row. Rows without one allow everything, rows whose grammar cannot go on nothing:
    that is for their answer alone. Computed on several cores.
    """
    import numpy as np

    words = (max(matcher.size for matcher in matchers.values()) + 31) // 32
    filled = np.full((rows, words), -1, dtype=np.int32)
    each = [(matcher.inner, row) for row, matcher in matchers.items()]
    _executor().unsafe_compute_mask_ptr(each, filled.ctypes.data, words * 4, rows)
    for row, matcher in matchers.items():
        if matcher.complaint:
            filled[row] = 0
    return filled


def masks(matchers: Mapping[int, Matcher], rows: int) -> NDArray[np.bool_]:
    """`bits` as true and false: (rows, size)."""
    import numpy as np

    size = max(matcher.size for matcher in matchers.values())
    bytes_ = bits(matchers, rows).view(np.uint8)
    return np.unpackbits(bytes_, axis=1, count=size, bitorder="little").astype(np.bool_)


def restrict(logits: torch.Tensor, matchers: Mapping[int, Matcher]) -> None:
    """Sets the logits of forbidden tokens to -inf, in place.

    `logits`: (batch, vocab), on any device. `matchers`: by row; all of one vocabulary. The bits
    travel to the device packed and are opened there.
    """
    import numpy as np

    if not matchers:
        return
    allowed = bits(dict(enumerate(matchers.values())), len(matchers))
    forbidden = _opened(np.invert(allowed), logits.device)
    known = min(logits.shape[1], next(iter(matchers.values())).size)
    for place, row in enumerate(matchers):
        logits[row, :known].masked_fill_(forbidden[place, :known], float("-inf"))
    logits[list(matchers), known:] = float("-inf")


def _opened(words: NDArray[np.int32], device: torch.device) -> torch.Tensor:
    """The bits of the words as booleans on the device: (rows, 32 * words)."""
    import numpy as np
    import torch

    packed = words.view(np.uint8)
    if device.type == "cpu":  # there five times faster than the table
        return torch.from_numpy(np.unpackbits(packed, axis=1, bitorder="little").view(np.bool_))
    numbers = torch.arange(256, device=device).unsqueeze(1)
    table = (numbers >> torch.arange(8, device=device)).bitwise_and_(1).bool()
    index = torch.from_numpy(packed).to(device).flatten().int()
    return table.index_select(0, index).view(packed.shape[0], -1)


@cache
def _executor() -> LLExecutor:
    from llguidance import LLExecutor

    return LLExecutor()

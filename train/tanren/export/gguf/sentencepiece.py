"""What llama.cpp's tokenizer of the kind "llama" makes of a text: SentencePiece's BPE by scores.

It starts from characters and joins, again and again, the neighbours whose joint text is the token
with the best score (the leftmost of equals); what is no token in the end becomes bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SPACE = "▁"


@dataclass(frozen=True, slots=True)
class ScoredVocabulary:
    """`ids` and `scores` by text; `byte_ids` by value, where the vocabulary has them."""

    ids: Mapping[str, int]
    scores: Sequence[float]
    byte_ids: Mapping[int, int]

    def encode(self, text: str) -> list[int]:
        """Ids of a text without special tokens. Characters that cannot be said are left out."""
        pieces = list(text.replace(" ", SPACE))
        return [i for piece in self._joined(pieces) for i in self._piece_ids(piece)]

    def _piece_ids(self, piece: str) -> list[int]:
        if piece in self.ids:
            return [self.ids[piece]]
        values = piece.encode("utf-8")
        return [self.byte_ids[value] for value in values if value in self.byte_ids]

    def _joined(self, pieces: list[str]) -> list[str]:
        """`pieces` after all joins. A piece that was joined to its left neighbour is empty."""
        before = list(range(-1, len(pieces) - 1))
        after = [*range(1, len(pieces)), -1]
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                joint = pieces[left] + pieces[right]
                if joint in self.ids:
                    heapq.heappush(queue, (-self.scores[self.ids[joint]], left, right, joint))

        for right in range(1, len(pieces)):
            offer(right - 1, right)
        while queue:
            _, left, right, joint = heapq.heappop(queue)
            if not (pieces[left] and pieces[right]) or pieces[left] + pieces[right] != joint:
                continue  # one of the two was joined meanwhile
            pieces[left], pieces[right] = joint, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [piece for piece in pieces if piece]

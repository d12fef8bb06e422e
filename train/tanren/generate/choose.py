"""The choice of the next token: settings, and the arithmetic from logits to token ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import torch

from tanren.errors import ConfigError, Fault


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are written. Of the model's generation config only its stop tokens are used."""

    max_new_tokens: int = 256
    """Tokens, at least 1. The model's context may end an answer earlier."""
    temperature: float = 0.0
    """0: the likeliest token, and `top_p`, `top_k`, `seed` have no say. Above 0: divides logits."""
    top_p: float = 1.0
    """In (0, 1]: the smallest set of tokens with this probability (Holtzman et al. 2020, 3.1)."""
    top_k: int | None = None
    """At least 1: so many of the likeliest tokens; applied before `top_p`. None: all."""
    repetition_penalty: float = 1.0
    """Above 0; above 1 makes tokens of prompt and answer less likely (Keskar et al. 2019, 4.1)."""
    seed: int | None = None
    """Makes sampling repeatable, whatever shares the batch. None draws anew."""
    stop: tuple[str, ...] = ()
    """Texts, none empty: the answer ends before the first of them."""

    def __post_init__(self) -> None:
        penalty = self.repetition_penalty
        bounds = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or above, and finite"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or none"),
            "repetition_penalty": (0 < penalty < math.inf, "above 0, and finite"),
            "stop": ("" not in self.stop, "texts of at least one character"),
        }
        values = asdict(self)
        faults = [
            Fault(f"decoding.{name}", repr(values[name]), expected, "mend it or leave it out")
            for name, (holds, expected) in bounds.items()
            if not holds
        ]
        if faults:
            raise ConfigError.of(*faults)


class TokenChooser:
    """Chooses for a batch of answers and remembers what that takes: draws, and tokens seen."""

    def __init__(
        self,
        decoding: Decoding,
        prompts: Sequence[Sequence[int]],
        *,
        streams: Sequence[int],
        steps: int,
        device: torch.device,
    ) -> None:
        """`streams` numbers each row's random stream; `steps` is the most tokens to be chosen."""
        self._decoding = decoding
        self._prompts = prompts
        self._step = 0
        self._seen: torch.Tensor | None = None  # (rows, vocab) bool
        self._draws: torch.Tensor | None = None  # (rows, steps) float32 in [0, 1)
        if decoding.temperature > 0:
            draws = [draws_of(decoding.seed, stream, steps) for stream in streams]
            self._draws = torch.stack(draws).to(device)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Token ids (rows,) int64 from `logits` (rows, vocab) float32; -1 where not finite."""
        if self._decoding.repetition_penalty != 1:
            logits = self._penalised(logits)
        best, chosen = logits.max(dim=-1)  # a NaN counts as the largest, so `best` tells of it
        if self._draws is not None:
            chosen = _sample(logits, self._draws[:, self._step], self._decoding)
        if self._seen is not None:
            self._seen.scatter_(1, chosen[:, None], True)
        self._step += 1
        return chosen.where(best.isfinite(), -1)

    def keep(self, rows: torch.Tensor) -> None:
        """Drops all rows but these (an int64 index)."""
        self._draws = None if self._draws is None else self._draws[rows]
        self._seen = None if self._seen is None else self._seen[rows]

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        if self._seen is None:
            self._seen = torch.zeros_like(logits, dtype=torch.bool)
            for seen, prompt in zip(self._seen, self._prompts, strict=True):
                seen[list(prompt)] = True
        penalty = self._decoding.repetition_penalty
        lowered = torch.where(logits < 0, logits * penalty, logits / penalty)
        return lowered.where(self._seen, logits)


def _sample(logits: torch.Tensor, draws: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """(rows,) int64. Only `draws` (rows,) is random, so other rows cannot change a row's token."""
    scaled = logits / decoding.temperature
    if decoding.top_k is None and decoding.top_p == 1:
        return pick(scaled.softmax(-1), draws)
    if decoding.top_k is not None:
        scaled, order = scaled.topk(min(decoding.top_k, logits.shape[-1]))
    else:
        scaled, order = scaled.sort(descending=True)
    return pick_nucleus(scaled, order, draws, decoding.top_p)


def pick_nucleus(
    scaled: torch.Tensor, order: torch.Tensor, draws: torch.Tensor, top_p: float | torch.Tensor
) -> torch.Tensor:
    """(rows,) int64 from logits sorted downwards and their token ids `order`, both (rows, tokens).

    `top_p` is one number or (rows, 1).
    """
    probabilities = scaled.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    inside = before < top_p
    place = pick(probabilities.where(inside, 0), draws)
    # Sums of a GPU may differ behind the last token inside; it must not be passed all the same.
    place = place.minimum(inside.sum(-1) - 1).clamp(min=0)
    return order.gather(1, place[:, None])[:, 0]


def pick(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Inverse transform sampling: where the cumulative probability passes the draw, (rows,)."""
    cumulative = probabilities.cumsum(-1)
    thresholds = draws[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, thresholds, right=True)
    # Rows of NaN have no such place; the caller marks them whatever stands here.
    return place.clamp(max=probabilities.shape[-1] - 1)[:, 0]


def draws_of(seed: int | None, stream: int, count: int) -> torch.Tensor:
    """(count,) float32 in [0, 1) from a generator of its own; torch's global one is not touched."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        digest = sha256(f"{seed} {stream}".encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return torch.rand(count, generator=generator)

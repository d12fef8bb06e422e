"""The next token of every row, each by its own settings and its own random draws.

From the model's logits: penalties and bias are added, what a constraint forbids is taken out, then
the temperature divides, then `top_p` cuts. Log-probabilities are those of the model's own
distribution, before any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from tanren.engine.structure.matcher import Matcher, restrict
from tanren.engine.wire import ChatRequest
from tanren.generate.choose import draws_of, pick, pick_nucleus

GREEDY_BELOW = 1e-5
"""Temperatures under this choose the likeliest token; division by them would overflow."""


@dataclass(slots=True)
class Wishes:
    """How one answer's tokens are chosen, and what was chosen so far."""

    temperature: float
    top_p: float
    presence: float
    frequency: float
    bias: dict[int, float]
    logprobs: int | None
    draws: list[float]
    """One in [0, 1) per token; empty where nothing is drawn."""
    matcher: Matcher | None = None
    taken: int = 0
    _seen: set[int] = field(default_factory=set)
    _change: torch.Tensor | None = None  # (vocab,): bias minus penalties so far

    @classmethod
    def of(
        cls, request: ChatRequest, choice: int, tokens: int, matcher: Matcher | None = None
    ) -> Wishes:
        """Of choice number `choice`, with at most `tokens` tokens."""
        samples = request.temperature >= GREEDY_BELOW
        return cls(
            temperature=request.temperature if samples else 0.0,
            top_p=request.top_p,
            presence=request.presence_penalty,
            frequency=request.frequency_penalty,
            bias=request.logit_bias,
            logprobs=request.logprobs,
            draws=draws_of(request.seed, choice, tokens).tolist() if samples else [],
            matcher=matcher,
        )

    def change(self, like: torch.Tensor) -> torch.Tensor | None:
        """(vocab,) to be added to the logits `like` (vocab,), or None.

        A token that stands c times in the answer is lowered by c * frequency + (c > 0) * presence.
        """
        if self._change is None and (self.presence or self.frequency or self.bias):
            self._change = torch.zeros_like(like)
            known = {token: bias for token, bias in self.bias.items() if 0 <= token < len(like)}
            if known:
                self._change[list(known)] = torch.tensor([*known.values()], device=like.device)
        return self._change

    def take(self, token_id: int) -> None:
        """The token was chosen. Raises WorkError where the constraint forbids it."""
        self.taken += 1
        if self.matcher is not None:
            self.matcher.accept(token_id)
        if self._change is not None and (self.presence or self.frequency):
            first = token_id not in self._seen
            self._change[token_id] -= self.frequency + (self.presence if first else 0.0)
            self._seen.add(token_id)


@dataclass(frozen=True, slots=True)
class Chosen:
    """`token_id` is -1 where the row's logits were not finite, or nothing is allowed.

    `top`: (token id, logprob).
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, rows: Sequence[Wishes]) -> list[Chosen]:
    """One token per row from `logits` (rows, vocab) float32. The caller then calls `take`."""
    likeliest = logits.amax(-1)  # a NaN counts as the largest, so this tells of it
    adjusted = _adjusted(logits, rows)
    best, chosen = adjusted.max(-1)
    drawn = [place for place, row in enumerate(rows) if row.temperature]
    if drawn:
        chosen = _with_drawn(adjusted, rows, drawn, chosen)
    sound = likeliest.isfinite() & best.isfinite()
    chosen = chosen.where(sound, -1)
    ids = chosen.tolist()
    told = _logprobs(logits, rows, chosen)
    return [told.get(place) or Chosen(token_id) for place, token_id in enumerate(ids)]


def _adjusted(logits: torch.Tensor, rows: Sequence[Wishes]) -> torch.Tensor:
    """With penalties, bias and constraints; `logits` itself stays as it is."""
    changes = {
        place: change
        for place, row in enumerate(rows)
        if (change := row.change(logits[place])) is not None
    }
    matchers = {place: row.matcher for place, row in enumerate(rows) if row.matcher is not None}
    if not changes and not matchers:
        return logits
    adjusted = logits.clone()
    if changes:
        index = torch.tensor([*changes], device=logits.device)
        adjusted[index] += torch.stack([*changes.values()])
    restrict(adjusted, matchers)
    return adjusted


def _with_drawn(
    logits: torch.Tensor, rows: Sequence[Wishes], drawn: Sequence[int], chosen: torch.Tensor
) -> torch.Tensor:
    """`chosen` with the tokens of sampling rows in their places. Rows that cut by `top_p` need a
    sort, the others do not.
    """
    cutting = [place for place in drawn if rows[place].top_p < 1]
    whole = [place for place in drawn if rows[place].top_p >= 1]
    for places in (whole, cutting):
        if not places:
            continue
        index = torch.tensor(places, device=logits.device)
        heat = torch.tensor([[rows[place].temperature] for place in places], device=logits.device)
        draws = torch.tensor(
            [rows[place].draws[rows[place].taken] for place in places], device=logits.device
        )
        scaled = (logits if len(places) == len(rows) else logits[index]) / heat
        if places is whole:
            picked = pick(scaled.softmax(-1), draws)
        else:
            top_p = torch.tensor([[rows[place].top_p] for place in places], device=logits.device)
            picked = pick_nucleus(*scaled.sort(descending=True), draws, top_p)
        chosen = chosen.index_copy(0, index, picked)
    return chosen


def _logprobs(
    logits: torch.Tensor, rows: Sequence[Wishes], chosen: torch.Tensor
) -> dict[int, Chosen]:
    """Of the rows that want them."""
    places = [place for place, row in enumerate(rows) if row.logprobs is not None]
    if not places:
        return {}
    index = torch.tensor(places, device=logits.device)
    own = logits[index].log_softmax(-1)
    ids = chosen[index]
    mine = own.gather(1, ids.clamp(min=0)[:, None])[:, 0].tolist()
    most = min(max(rows[place].logprobs or 0 for place in places), logits.shape[-1])
    values, tokens = (part.tolist() for part in own.topk(most))
    found: dict[int, Chosen] = {}
    for i, (place, token_id) in enumerate(zip(places, ids.tolist(), strict=True)):
        wanted = rows[place].logprobs or 0
        top = tuple(zip(tokens[i][:wanted], values[i][:wanted], strict=True))
        found[place] = Chosen(token_id, mine[i], top)
    return found

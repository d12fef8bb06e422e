"""Messages judged by a moderation endpoint, many in a request and many requests at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tanren.data.screen.moderator import Passage, Unjudged, Verdict
from tanren.endpoint.cache import ReplyCache
from tanren.endpoint.client import ask_all
from tanren.endpoint.journal import Journal
from tanren.endpoint.moderations import ModerationConfig
from tanren.endpoint.reply import Failure, Reply
from tanren.endpoint.spending import Ledger


class EndpointModerator:
    """Verdicts are kept on disk by what was asked, so that a screening that was stopped goes on
    where it was. `threshold` None: the endpoint's own `flagged` counts.
    """

    def __init__(
        self,
        config: ModerationConfig,
        *,
        threshold: float | None = None,
        journal: Journal | None = None,
        cache: ReplyCache | None = None,
    ) -> None:
        self.config = config
        self.threshold = threshold
        self.ledger = Ledger(config.budget, config.prices, journal)
        self._cache = cache or ReplyCache()

    @property
    def name(self) -> str:
        return self.config.model

    def judge(self, passages: Sequence[Passage]) -> Sequence[Verdict | Unjudged]:
        """Equal texts are asked once."""
        texts = list(dict.fromkeys(passage.text for passage in passages))
        size = self.config.batch_size
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        said: dict[str, Verdict | Unjudged] = {}

        def keep(position: int, reply: Reply | Failure) -> None:
            batch = batches[position]
            said.update(zip(batch, self._verdicts(reply, len(batch)), strict=True))

        asked = [[{"role": "user", "content": text} for text in batch] for batch in batches]
        outcome = ask_all(self.config, asked, keep, cache=self._cache, ledger=self.ledger)
        unasked = Unjudged(outcome.stopped or "it was not asked")
        return [said.get(passage.text, unasked) for passage in passages]

    def _verdicts(self, reply: Reply | Failure, expected: int) -> list[Verdict | Unjudged]:
        if isinstance(reply, Failure):
            return [Unjudged(reply.words)] * expected
        results: list[Mapping[str, Any]] = json.loads(reply.text)
        if len(results) != expected:
            words = f"{len(results)} results for {expected} texts"
            return [Unjudged(words)] * expected
        return [self._verdict(result) for result in results]

    def _verdict(self, result: Mapping[str, Any]) -> Verdict:
        scores: Mapping[str, float] = result["scores"]
        if self.threshold is None:
            return Verdict(scores, tuple(result["flagged"]))
        return Verdict(scores, above(scores, self.threshold))


def above(scores: Mapping[str, float], threshold: float) -> tuple[str, ...]:
    """Categories from the threshold on, the surest first."""
    found = [name for name, score in scores.items() if score >= threshold]
    return tuple(sorted(found, key=lambda name: -scores[name]))

"""`--from-ideas`: new question/answer pairs from a few seeds, none of them nearly another.

Requests are numbered; what each one shows of the seeds depends on its number alone, and pairs are
taken in the order of the requests. So the end is the same however many run at once, and whenever
the work was stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tanren.data.files import shown_path
from tanren.data.near import NearIndex
from tanren.distill.answers import Answers
from tanren.distill.distillation import Decided, Distilled, Request, Tell, carried_out, written
from tanren.distill.folder import opened_folder
from tanren.distill.loop import Loop, Outcome
from tanren.distill.pairs import Pair, Unreadable, read_pairs
from tanren.distill.rows import SourceRow, digest
from tanren.distill.seeds import Seed, drawn, language_of, read_seeds, request_for, system_of
from tanren.distill.settings import DistillConfig
from tanren.distill.work import guarded, settle_all, together
from tanren.endpoint import Failure, Reply


@dataclass
class Batch:
    """One request's pairs. `words`: why there are none."""

    number: int
    rows: list[SourceRow] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    words: str = ""
    left: bool = False


@dataclass
class Found:
    """What became of every candidate so far."""

    near: NearIndex
    requests: int = 0
    candidates: int = 0
    accepted: int = 0
    near_seeds: int = 0
    near_accepted: int = 0
    beyond_count: int = 0
    failed_requests: int = 0
    fruitless: int = 0
    """Requests in a row without a new pair."""
    unreadable: Counter[str] = field(default_factory=Counter)
    apart: list[dict[str, Any]] = field(default_factory=list)
    """Lines for rejected.jsonl beside those that broke a constraint."""

    def as_dict(self, ended: str) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "candidates": self.candidates,
            "accepted": self.accepted,
            "near_seeds": self.near_seeds,
            "near_accepted": self.near_accepted,
            "beyond_count": self.beyond_count,
            "failed_requests": self.failed_requests,
            "unreadable": dict(self.unreadable.most_common()),
            "near_threshold": self.near.threshold,
            "ended": ended,
        }


class Ideas:
    """Asks in waves until there are enough pairs, or nothing new comes."""

    def __init__(self, request: Request, seeds: Sequence[Seed], file: str, tell: Tell) -> None:
        self.settings = request.config.ideas
        self.found = Found(NearIndex(self.settings.near_threshold))
        self.decided = Decided(None, tell)
        self.ended = ""
        self._request = request
        self._seeds = seeds
        self._file = file
        self._system = system_of(seeds, request.config.system)
        self._language = language_of(seeds, self.settings.language)
        self._tell = tell
        for number, seed in enumerate(seeds):
            self.found.near.add(-1 - number, seed.question)

    async def settle(self, loop: Loop, answers: Answers) -> None:
        number = 0
        while not self._enough() and answers.stopped is None:
            wave = [Batch(number + k) for k in range(self._wave())]
            number += len(wave)
            await together([self._ask(batch, answers) for batch in wave])
            outcomes = await self._settled(wave, loop, answers)
            for batch in wave:
                if not self._enough():
                    self._take(batch, outcomes)
                else:
                    self.found.beyond_count += len(batch.rows)
                    self.found.candidates += len(batch.rows)

    def _wave(self) -> int:
        missing = self.settings.count - self.found.accepted
        wanted = -(-missing // self.settings.per_batch)
        return max(1, min(wanted, self._request.teacher.concurrency))

    def _enough(self) -> bool:
        if self.found.accepted >= self.settings.count:
            self.ended = f"{self.found.accepted:,} pairs are there"
        elif self.found.fruitless >= self.settings.patience:
            self.ended = f"{self.found.fruitless} requests in a row gave no new pair"
        return bool(self.ended)

    # --- one request ------------------------------------------------------------------------------

    async def _ask(self, batch: Batch, answers: Answers) -> None:
        messages = request_for(
            drawn(self._seeds, self.settings, batch.number),
            count=self.settings.per_batch,
            language=self._language,
            system=self._system,
            topic=self.settings.topic,
        )
        found = await guarded(answers.get(f"request {batch.number}", messages), answers)
        if isinstance(found, str):
            batch.words, batch.left = found, True
        elif isinstance(found, Failure):
            batch.words = found.words
        else:
            self._read(batch, found)

    def _read(self, batch: Batch, reply: Reply) -> None:
        for piece in read_pairs(reply.text):
            if isinstance(piece, Unreadable):
                batch.unreadable.append(piece)
            else:
                batch.rows.append(self._row(piece, batch))

    def _row(self, pair: Pair, batch: Batch) -> SourceRow:
        place = len(batch.rows)
        told = {"system": self._system, "question": pair.question}
        values = {"text": pair.question, "reference": "", "row": {}, "file": self._file}
        return SourceRow(
            key=f"request {batch.number} pair {place}",
            position=batch.number * 100_000 + place,
            file=self._file,
            line=None,
            sha256=digest(told),
            system=self._system,
            history=(),
            user=pair.question,
            values=values,
            given=pair.answer,
        )

    # --- a wave -----------------------------------------------------------------------------------

    async def _settled(
        self, wave: Sequence[Batch], loop: Loop, answers: Answers
    ) -> dict[int, Outcome | str]:
        """The outcomes of pairs that repeat nothing so far."""
        outcomes: dict[int, Outcome | str] = {}
        rows = [r for b in wave for r in b.rows if self.found.near.nearest(r.user) is None]

        def keep(row: SourceRow, found: Outcome | str) -> None:
            outcomes[row.position] = found

        concurrency = self._request.teacher.concurrency
        await settle_all(rows, loop, answers, keep, concurrency=concurrency)
        return outcomes

    def _take(self, batch: Batch, outcomes: dict[int, Outcome | str]) -> None:
        """One request's pairs in order."""
        found = self.found
        found.requests += 1
        found.failed_requests += bool(batch.words)
        for piece in batch.unreadable:
            found.unreadable[piece.why] += 1
            found.apart.append(
                {"reason": f"unreadable: {piece.why}", "request": batch.number, "text": piece.text}
            )
        before = found.accepted
        for row in batch.rows:
            self._take_pair(row, batch, outcomes)
        if not batch.left:
            found.fruitless = 0 if found.accepted > before else found.fruitless + 1
        self._tell("progress", done=found.accepted, total=self.settings.count)

    def _take_pair(self, row: SourceRow, batch: Batch, outcomes: dict[int, Outcome | str]) -> None:
        found = self.found
        found.candidates += 1
        if found.accepted >= self.settings.count:
            found.beyond_count += 1
            return
        match = found.near.nearest(row.user)
        if match is not None:
            found.near_seeds += match.row < 0
            found.near_accepted += match.row >= 0
            found.apart.append(self._near_row(row, batch, match.row, match.similarity))
            return
        outcome = outcomes[row.position]
        self.decided.end(row, outcome)
        if isinstance(outcome, Outcome) and outcome.accepted:
            found.accepted += 1
            found.near.add(found.accepted - 1, row.user)

    def _near_row(
        self, row: SourceRow, batch: Batch, other: int, similarity: float
    ) -> dict[str, Any]:
        of = {"seed": -other} if other < 0 else {"row": other + 1}
        return {
            "reason": "nearly a seed" if other < 0 else "nearly an accepted row",
            "request": batch.number,
            "question": row.user,
            "answer": row.given,
            "of": {**of, "similarity": round(similarity, 4)},
        }


def distill_ideas(
    config: DistillConfig,
    path: Path,
    seeds_file: Path,
    *,
    overwrite: bool = False,
    allow_python: bool = False,
    tell: Tell,
) -> Distilled:
    """As `distillation.distill`, with rows that the teacher thinks of."""
    request = Request.read(config, path, from_ideas=True, allow_python=allow_python)
    seeds = read_seeds(seeds_file, config.ideas.seed_rows)
    ideas = Ideas(request, seeds, shown_path(seeds_file), tell)
    rows = {
        "seeds": digest([[s.question, s.answer, s.system] for s in seeds]),
        **config.ideas.model_dump(mode="json", exclude={"count", "patience", "seed_rows"}),
    }
    folder = opened_folder(Path(str(config.out)), request.identity(rows), overwrite=overwrite)
    with folder.claimed():
        text = f"{request.teacher.name} thinks of {config.ideas.count:,} pairs"
        tell("stage", name="ask", text=text)
        stopped, spent = carried_out(request, folder, ideas.settle)
        return written(
            request, folder, ideas.decided, facts=None, stopped=stopped, spent=spent,
            ideas=ideas.found.as_dict(ideas.ended or str(stopped)), apart=ideas.found.apart,
        )  # fmt: skip

"""Many rows at once: bounded, ended early by a spent budget or a silent teacher, never half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from tanren.distill.answers import Answers, Stopped, Unanswered
from tanren.distill.loop import Loop, Outcome
from tanren.distill.rows import SourceRow
from tanren.endpoint.client import EndpointSilent
from tanren.endpoint.spending import BudgetSpent

OnEnd = Callable[[SourceRow, Outcome | str], None]
"""Called in order of arrival with what became of a row: its outcome, or why it is left."""


async def settle_all(
    rows: Iterable[SourceRow],
    loop: Loop,
    answers: Answers,
    on_end: OnEnd,
    *,
    concurrency: int,
) -> None:
    """Every row is settled or left; `rows` are drawn as there is room for them.

    After a stop (`answers.stopped`) rows that are answered in the journal are settled all the same.
    """
    waiting = iter(rows)

    async def work() -> None:
        for row in waiting:
            on_end(row, await guarded(loop.settle(row), answers))

    await together([work() for _ in range(concurrency)])


async def guarded(settling: Awaitable[Any], answers: Answers) -> Any:
    """What an awaitable gives, or in words why it could not; a stop is remembered."""
    try:
        return await settling
    except (BudgetSpent, EndpointSilent) as why:
        answers.stopped = answers.stopped or why.message
        return why.message
    except (Unanswered, Stopped) as why:
        return why.message


async def together(works: Sequence[Any]) -> None:
    """Run all; the first error cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None

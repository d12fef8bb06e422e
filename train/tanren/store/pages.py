"""Parts of long lists, by the number of the last row seen: as quick at the end as at the beginning,
and right while rows come and go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from tanren.store.errors import InvalidRequest
from tanren.store.records import Page

T = TypeVar("T")


def page(
    session: Session,
    statement: Select[Any],
    number: InstrumentedAttribute[int],
    record: Callable[[Any], T],
    *,
    limit: int,
    after: int | None = None,
    newest_first: bool = True,
) -> Page[T]:
    """Rows of `statement` in the order of `number`, those that follow the row numbered `after`.

    One row more than `limit` is read, to see whether something follows. Raises InvalidRequest
    for a limit below 1.
    """
    if limit < 1:
        raise InvalidRequest(f"{limit} is less than the minimum of 1 - 'limit'", param="limit")
    if after is not None:
        statement = statement.where(number < after if newest_first else number > after)
    order = number.desc() if newest_first else number.asc()
    rows = session.scalars(statement.order_by(order).limit(limit + 1)).all()
    return Page(tuple(record(row) for row in rows[:limit]), has_more=len(rows) > limit)


def cursor(
    session: Session,
    id: InstrumentedAttribute[str],
    number: InstrumentedAttribute[int],
    after: str | None,
    *within: ColumnElement[Any],
) -> int | None:
    """The number of the row that `after` names, deleted or not; None: begin at the start.

    `within`: what must hold of the row, such as being of the same job. Raises InvalidRequest.
    """
    if after is None:
        return None
    found = session.scalar(select(number).where(id == after, *within))
    if found is None:
        raise InvalidRequest(f"No such cursor: {after}", param="after")
    return found

"""Which part each group of rows goes to: targets met exactly where groups allow it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tanren.data.split.near_pairs import mixed
from tanren.errors import DataError, Fault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Integers = NDArray[np.signedinteger[Any]]

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Assignment:
    part_of: Integers
    """For each row the number of its part."""
    wanted: list[list[int]]
    """Rows by stratum and part, as largest remainders have them."""
    got: list[list[int]]


def assign(labels: Integers, strata: Integers, targets: Sequence[int], seed: int) -> Assignment:
    """`labels`: for each row the first row of its group. `strata`: numbers from 0.

    Groups of several rows are placed first, the largest first, where most of their rows are still
    wanted; single rows then fill up each stratum's parts. Raises DataError where a part that
    should have rows gets none.
    """
    import numpy as np

    rows = len(labels)
    noise = row_noise(rows, seed)
    wanted = stratum_targets(np.bincount(strata).tolist(), targets)
    part_of = np.full(rows, -1, dtype=np.int64)
    remaining = [list(row) for row in wanted]
    sizes = np.bincount(labels, minlength=rows)
    groups_left = int((sizes > 0).sum())
    empty = {part for part, target in enumerate(targets) if target}
    for members in _large_groups(labels, sizes, noise):
        counts = np.bincount(strata[members], minlength=len(wanted)).tolist()
        # The last groups go where nothing is yet: a part without rows is worse than a size missed.
        parts = sorted(empty) if groups_left <= len(empty) else range(len(targets))
        part = _best_part(counts, remaining, parts, int(noise[members[0]]))
        part_of[members] = part
        empty.discard(part)
        groups_left -= 1
        for stratum, count in enumerate(counts):
            remaining[stratum][part] -= count
    _place_singles(part_of, sizes[labels] == 1, strata, remaining, empty, noise)
    got = [
        np.bincount(part_of[strata == stratum], minlength=len(targets)).tolist()
        for stratum in range(len(wanted))
    ]
    _refuse_empty(got, targets, sizes)
    return Assignment(part_of, wanted, got)


def row_noise(rows: int, seed: int) -> NDArray[np.unsignedinteger[Any]]:
    """A 64-bit number for each row: SplitMix64 from the seed. Ours, because the streams of numpy
    and of `random` may change with their versions.
    """
    import numpy as np

    start = mixed(np.array([seed % 2**64], dtype=np.uint64) + np.uint64(_GOLDEN))
    return mixed(start + np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(_GOLDEN))


def stratum_targets(sizes: Sequence[int], targets: Sequence[int]) -> list[list[int]]:
    """Whole numbers by stratum and part: rows add up to `sizes`, columns to `targets`.

    Every cell has the floor of size * target / rows; what is left over goes to the largest
    remainders first, to each cell once before any gets a second.
    """
    rows = sum(sizes)
    cells = [[size * target // rows for target in targets] for size in sizes]
    lacking = [size - sum(row) for size, row in zip(sizes, cells, strict=True)]
    open_parts = [target - sum(row[part] for row in cells) for part, target in enumerate(targets)]
    order = sorted(
        ((-(size * target % rows), stratum, part))
        for stratum, size in enumerate(sizes)
        for part, target in enumerate(targets)
    )
    while any(lacking):
        for _, stratum, part in order:
            if lacking[stratum] and open_parts[part]:
                cells[stratum][part] += 1
                lacking[stratum] -= 1
                open_parts[part] -= 1
    return cells


def _large_groups(labels: Integers, sizes: Integers, noise: Any) -> list[Integers]:
    """Rows of each group of two or more: larger groups first, equal ones in seeded order."""
    import numpy as np

    inside = np.flatnonzero(sizes[labels] > 1)
    if not len(inside):
        return []
    leaders = labels[inside]
    order = np.lexsort((inside, leaders, noise[leaders], -sizes[leaders]))
    in_order = inside[order]
    ends = np.flatnonzero(np.diff(labels[in_order])) + 1
    return np.split(in_order, ends)


def _best_part(
    counts: Sequence[int], remaining: Sequence[Sequence[int]], parts: Sequence[int], draw: int
) -> int:
    """The one of `parts` where fewest of the group's rows are too many; among equals by a draw,
    weighted by the room, so that large groups are not all trained.
    """
    strata = [stratum for stratum, count in enumerate(counts) if count]
    excess = {
        part: sum(max(0, counts[stratum] - max(0, remaining[stratum][part])) for stratum in strata)
        for part in parts
    }
    fitting = [part for part in parts if excess[part] == min(excess.values())]
    room = [max(0, sum(remaining[stratum][part] for stratum in strata)) for part in fitting]
    if not sum(room):  # full everywhere: where the whole part has most room
        return max(fitting, key=lambda part: (sum(row[part] for row in remaining), -part))
    point = draw % sum(room)
    for part, width in zip(fitting, room, strict=True):
        if point < width:
            return part
        point -= width
    raise AssertionError("the draw lies within the room")


def _place_singles(
    part_of: Integers,
    single: NDArray[np.bool_],
    strata: Integers,
    remaining: Sequence[Sequence[int]],
    empty: Collection[int],
    noise: NDArray[np.unsignedinteger[Any]],
) -> None:
    """Each stratum's single rows in seeded order, cut where the parts' numbers say. `empty` parts
    hold no group so far.
    """
    import numpy as np

    rows = np.flatnonzero(single)
    order = rows[np.lexsort((rows, noise[rows], strata[rows]))]
    counts = np.bincount(strata[order], minlength=len(remaining)).tolist()
    room = _room_for_singles(counts, remaining)
    _fill_empty(room, empty)
    start = 0
    for stratum_room in room:
        for part, count in enumerate(stratum_room):
            part_of[order[start : start + count]] = part
            start += count


def _room_for_singles(counts: Sequence[int], remaining: Sequence[Sequence[int]]) -> list[list[int]]:
    """`remaining` without the parts that groups overfilled; every row adds up to its count."""
    room = [[max(0, left) for left in row] for row in remaining]
    # What groups have put too much into a part is taken, row by row, from the part that would
    # end up with most too many.
    surplus = [
        sum(room[h][part] - remaining[h][part] for h in range(len(room)))
        for part in range(len(room[0]))
    ]
    for stratum, count in enumerate(counts):
        row = room[stratum]
        while sum(row) > count:
            part = max(
                (p for p in range(len(row)) if row[p]), key=lambda p: (surplus[p], row[p], -p)
            )
            row[part] -= 1
            surplus[part] -= 1
    return room


def _fill_empty(room: list[list[int]], empty: Collection[int]) -> None:
    """A part without any row gets one from where most single rows go."""
    for part in empty:
        if any(row[part] for row in room):
            continue
        giving = [
            (row[other], -stratum, -other)
            for stratum, row in enumerate(room)
            for other in range(len(row))
            if row[other] and (other not in empty or sum(r[other] for r in room) > 1)
        ]
        if giving:
            _, stratum, other = max(giving)
            room[-stratum][-other] -= 1
            room[-stratum][part] += 1


def _refuse_empty(got: list[list[int]], targets: Sequence[int], sizes: Integers) -> None:
    totals = [sum(row[part] for row in got) for part in range(len(targets))]
    empty = [part for part, target in enumerate(targets) if target and not totals[part]]
    if not empty:
        return
    groups, largest, rows = int((sizes > 0).sum()), int(sizes.max()), int(sizes.sum())
    found = f"{rows:,} rows in {groups:,} groups that must stay whole, the largest of {largest:,}"
    expected = f"a group for each of {len(targets)} parts"
    remedy = (
        "ask for fewer parts, or let more be told apart: another --group, a higher "
        "--near-threshold, --no-near, --no-same-prompt"
    )
    raise DataError("some part would be empty", [Fault("rows", found, expected, remedy)])

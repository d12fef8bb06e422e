"""Near rows by MinHash are those that comparing all pairs finds."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from tanren.data.near import comparable, jaccard, shingles
from tanren.data.split.groups import Groups
from tanren.data.split.near_pairs import NearRows


def texts(rows: int, seed: int) -> list[str]:
    """Some near each other, at every distance, in both scripts."""
    draw = random.Random(seed)
    letters = "abcdefghij klmnop あいうえおかきくけこ東西南北"
    found: list[str] = []
    for _ in range(rows):
        if found and draw.random() < 0.6:
            characters = list(draw.choice(found))
            for _ in range(draw.randrange(9)):
                characters[draw.randrange(len(characters))] = draw.choice(letters)
            found.append("".join(characters))
        else:
            found.append("".join(draw.choices(letters, k=draw.randrange(30, 150))))
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_rows_are_joined_and_others_are_not(threshold: float) -> None:
    rows = texts(350, seed=7)
    grams = [shingles(comparable(text)) for text in rows]
    expected = Groups(len(rows))
    near = [
        (i, j)
        for i, j in combinations(range(len(rows)), 2)
        if jaccard(grams[i], grams[j]) >= threshold
    ]
    for i, j in near:
        expected.join(i, j)
    assert len(near) > 60
    index, found = NearRows(threshold), Groups(len(rows))
    for text in rows:
        index.add(text)
    pairs = list(index.pairs(rows.__getitem__, found))
    for pair in pairs:
        assert pair.similarity == jaccard(grams[pair.first], grams[pair.second]) >= threshold
        assert pair.first < pair.second
    torn = [(i, j) for i, j in near if found.of(i) != found.of(j)]
    assert len(torn) <= 0.01 * len(near)
    assert all(expected.of(row) == expected.of(found.of(row)) for row in range(len(rows)))
    # Each pair joins two groups, so that their number is what joining took away.
    assert len(pairs) == len(rows) - len({found.of(row) for row in range(len(rows))})


def test_texts_that_differ_in_width_case_or_space_are_the_same_text() -> None:
    index, groups = NearRows(1.0), Groups(4)
    rows = ["Ｈｅｌｌｏ  World", "hello world", "", " \n"]
    for text in rows:
        index.add(text)
    (pair,) = index.pairs(rows.__getitem__, groups)
    assert (pair.first, pair.second, pair.similarity) == (0, 1, 1.0)


def test_rows_of_one_template_cost_linear_time_and_what_is_left_out_is_counted() -> None:
    reads = 0

    def read(row: int) -> str:
        nonlocal reads
        reads += 1
        return rows[row]

    base = "the very same long opening of every single row in this file, word for word, "
    draw = random.Random(2)
    rows = [base + "".join(draw.choices("0123456789", k=26)) for _ in range(600)]
    index = NearRows(0.8)
    for text in rows:
        index.add(text)
    list(index.pairs(read, Groups(len(rows))))
    assert index.crowded_rows > 0
    assert reads < 200 * len(rows)

"""Laws of wishes: exact arithmetic, and every mistake said."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.data.split.assign import stratum_targets
from tanren.data.split.wish import counts_wish, largest_remainder, shares_wish
from tanren.errors import ConfigError

weights = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(weights, st.integers(0, 10**7))
def test_largest_remainders_add_up_and_are_floor_or_ceiling(parts: list[int], rows: int) -> None:
    shares = [Fraction(part, sum(parts)) for part in parts]
    counts = largest_remainder(shares, rows)
    assert sum(counts) == rows
    for share, count in zip(shares, counts, strict=True):
        assert share * rows - 1 < count < share * rows + 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), weights)
def test_strata_add_up_to_both_margins_and_stay_near_their_quotas(
    sizes: list[int], parts: list[int]
) -> None:
    rows = sum(sizes)
    targets = largest_remainder([Fraction(part, sum(parts)) for part in parts], rows)
    cells = stratum_targets(sizes, targets)
    assert [sum(row) for row in cells] == sizes
    assert [sum(column) for column in zip(*cells, strict=True)] == targets
    for size, row in zip(sizes, cells, strict=True):
        for target, cell in zip(targets, row, strict=True):
            assert -1 < cell - size * target / rows < 3


def test_shares_in_percent_and_in_parts_of_one_mean_the_same() -> None:
    assert shares_wish("80,10,10").targets(1234) == shares_wish("0.8,0.1,0.1").targets(1234)
    assert shares_wish("80,10,10").targets(130) == (104, 13, 13)
    assert shares_wish(" 33.3% ,66.7").names == ("train", "validation")


@pytest.mark.parametrize(
    "text", ["80,10", "0.8,0.1", "50,50,50", "a,b", "100,0", "-10,110", "", "²0,80"]
)
def test_shares_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        shares_wish(text)


@pytest.mark.parametrize("text", ["", "0,10", "7.5,2", "-3", "1,,2", "٣"])
def test_counts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        counts_wish(text)


@pytest.mark.parametrize("names", ["a", "a,b,c", "a,a", "a,A", "a,../b", "a,split", "a,", ".,b"])
def test_names_that_cannot_be_files_are_refused(names: str) -> None:
    with pytest.raises(ConfigError):
        shares_wish("50,50", names)


def test_four_parts_need_names() -> None:
    with pytest.raises(ConfigError, match="names"):
        counts_wish("1,1,1,1")
    assert counts_wish("1,1,1,1", "a,b,c,日本").parts == ("a", "b", "c", "日本")

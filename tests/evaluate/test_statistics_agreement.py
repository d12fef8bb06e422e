"""Agreement of raters against published and hand-computed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tanren.evaluate.statistics import cohen_kappa, fleiss_kappa, krippendorff_alpha


def test_cohens_kappa_of_a_textbook_table() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, by chance 0.5."""
    cells = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    first, second = zip(*cells, strict=True)
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert cohen_kappa([*first, None], [*second, "y"]) == pytest.approx(0.4)
    assert cohen_kappa(["y"] * 5, ["y"] * 5) is None and cohen_kappa([], []) is None


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_scikit_learns_kappa_agrees(weights: Any) -> None:
    draw = np.random.default_rng(0)
    first, second = draw.integers(1, 6, size=(2, 80)).tolist()
    expected = cohen_kappa_score(first, second, weights=weights)
    found = cohen_kappa(first, second, order=[1, 2, 3, 4, 5], weights=weights)
    assert found == pytest.approx(expected)


def test_fleiss_kappa_of_the_usual_example() -> None:
    """Ten items, fourteen raters, five categories: 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    ratings = [[k for k, n in enumerate(line) for _ in range(n)] for line in table]
    assert fleiss_kappa(ratings) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([["a", "a"], ["a", "a"]]) is None
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([["a", "b"], ["a"]])


N = None
THREE_CODERS = [
    [N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3],
    [1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N],
    [N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4],
]
FOUR_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]


@pytest.mark.parametrize(
    ("ratings", "level", "published"),
    [
        (THREE_CODERS, "nominal", 0.691), (THREE_CODERS, "ordinal", 0.807),
        (THREE_CODERS, "interval", 0.811),
        # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections C and D
        (FOUR_OBSERVERS, "nominal", 0.743), (FOUR_OBSERVERS, "ordinal", 0.815),
        (FOUR_OBSERVERS, "interval", 0.849),
    ],
)  # fmt: skip
def test_krippendorffs_alpha_as_published(ratings: Any, level: Any, published: float) -> None:
    assert krippendorff_alpha(ratings, level) == pytest.approx(published, abs=6e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([["a", "b", "a"], ["a", "b", "a"]]) == 1
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([[1, N], [N, 2]]) is None and krippendorff_alpha([]) is None
    two = krippendorff_alpha([["a", "b"], ["b", "a"]])
    assert two is not None and two < 0
    with pytest.raises(ValueError, match="numbers"):
        krippendorff_alpha([["a"], ["b"]], "interval")

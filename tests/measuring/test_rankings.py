"""How good vectors and rankings are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.measuring.quality.rankings import (
    K,
    Quality,
    cosines,
    exact_quality,
    quality,
    spearman,
)

ids = st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=20)


@given(ids, st.frozensets(st.integers(0, 30), min_size=1))
def test_quality_is_best_where_all_that_is_relevant_comes_first(
    found: list[int], relevant: frozenset[int]
) -> None:
    reached = quality({"q": found}, {"q": relevant})
    ideal = [*relevant, *(row for row in found if row not in relevant)]
    assert quality({"q": ideal}, {"q": relevant}) == Quality(1.0, 1.0)
    assert 0 <= reached.mrr <= 1
    assert 0 <= reached.recall <= 1
    assert (reached.mrr > 0) == (reached.recall > 0) == bool(relevant & {*found[:K]})


def test_quality_is_the_mean_over_the_queries() -> None:
    found = {"a": ["x", "y"], "b": ["z", "x"]}
    assert quality(found, {"a": {"x"}, "b": {"x", "y"}}) == Quality(0.75, 0.75)


def test_exact_search_ranks_by_the_product() -> None:
    rows = np.eye(3, dtype=np.float32)
    asked = np.array([[0, 1, 0], [0.5, 0.2, 0.9]], np.float32)
    relevant = {"first": {"b"}, "second": {"a"}}
    assert exact_quality(asked, rows, row_ids=["a", "b", "c"], relevant=relevant) == Quality(
        0.75, 1.0
    )


@given(st.lists(st.integers(-100, 100), min_size=3, max_size=20, unique=True))
def test_ranks_see_the_order_and_nothing_else(values: list[int]) -> None:
    a = np.array(values, np.float64)
    assert spearman(a, a**3) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)


def test_equal_values_share_their_mean_rank() -> None:
    ties, order = np.array([1.0, 1, 2, 3]), np.array([1.5, 1.5, 3, 4])
    assert spearman(ties, order) == pytest.approx(1)


def test_cosines_do_not_depend_on_lengths() -> None:
    a = np.array([[3, 4], [1, 0]], np.float32)
    b = np.array([[6, 8], [0, 2]], np.float32)
    assert cosines(a, b).tolist() == pytest.approx([1, 0])

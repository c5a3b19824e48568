"""Vectors to measure an index with, and exact answers to compare with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.measuring.index.data import exact, recall, synthetic
from vecserve_server.measuring.quality.classifying import calibration_error


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 1000), st.booleans())
def test_exact_answers_are_the_rows_with_the_largest_products(
    rows: int, k: int, seed: int, narrowed: bool
) -> None:
    data = synthetic(rows, 8, 4, seed=seed)
    allowed = np.arange(0, rows, 2) if narrowed else np.arange(rows)
    found = exact(data.vectors, data.queries, k, allowed if narrowed else None)
    for query, hits in zip(data.queries, found, strict=True):
        products = data.vectors[allowed] @ query
        expected = np.sort(products)[::-1][:k]
        assert np.sort(data.vectors[hits] @ query)[::-1] == pytest.approx(expected, abs=1e-6)
        assert set(hits.tolist()) <= set(allowed.tolist())


def test_the_same_arguments_draw_the_same_vectors_of_length_one() -> None:
    a, b = synthetic(100, 8, 10, seed=3), synthetic(100, 8, 10, seed=3)
    assert np.array_equal(a.vectors, b.vectors)
    assert np.array_equal(a.queries, b.queries)
    assert np.linalg.norm(a.vectors, axis=1) == pytest.approx(np.ones(100))


def test_recall_is_the_part_of_the_true_neighbours_that_was_found() -> None:
    truth = [np.array([1, 2]), np.array([3, 4])]
    assert recall([np.array([2, 1]), np.array([3, 9])], truth) == 0.75


def test_confidence_that_is_as_often_right_as_it_says_is_calibrated() -> None:
    right = np.array([True, True, True, False])
    assert calibration_error(right, np.full(4, 0.75)) == pytest.approx(0)
    assert calibration_error(right, np.full(4, 1.0)) == pytest.approx(0.25)

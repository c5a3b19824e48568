"""Figures from samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.measuring.statistics import (
    PERCENTS,
    median_ratio,
    paired_ratios,
    percentile,
    percentiles,
    turned,
)

figures = st.floats(1e-3, 1e6)
samples = st.lists(figures, min_size=1, max_size=60)
rounds = st.lists(st.tuples(figures, figures), min_size=1, max_size=20)


@given(samples)
def test_percentiles_are_numpys(values: list[float]) -> None:
    found = percentiles(values)
    assert [found.p50, found.p95, found.p99] == np.percentile(values, PERCENTS).tolist()
    assert min(values) <= found.p50 <= found.p95 <= found.p99 <= max(values)


@given(samples, st.floats(0, 100))
def test_any_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == np.percentile(values, percent)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert percentiles(shuffled) == percentiles(values)


def test_percentiles_are_told_with_their_unit() -> None:
    found = percentiles([1.23456]).as_json("ms", 3)
    assert found == {"p50_ms": 1.235, "p95_ms": 1.235, "p99_ms": 1.235}


def test_nothing_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentiles([])


@given(rounds, st.floats(0.1, 10))
def test_what_slows_a_whole_round_does_not_change_a_ratio(
    pairs: list[tuple[float, float]], slower: float
) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    expected = median_ratio(ours, theirs)
    assert median_ratio([a * slower for a in ours], [b * slower for b in theirs]) == pytest.approx(
        expected
    )
    assert min(paired_ratios(ours, theirs)) <= expected <= max(paired_ratios(ours, theirs))


@given(rounds)
def test_a_ratio_turned_round_is_its_inverse(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    back = paired_ratios(theirs, ours)
    assert [1 / ratio for ratio in paired_ratios(ours, theirs)] == pytest.approx(back)


def test_figures_that_were_not_taken_in_every_round_have_no_median_ratio() -> None:
    with pytest.raises(ValueError, match="2 and 1 figures"):
        median_ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="0 and 0 figures"):
        median_ratio([], [])


def test_a_last_block_without_a_neighbour_is_left_out() -> None:
    assert paired_ratios([2.0, 6.0, 5.0], [1.0, 2.0]) == [2.0, 3.0]


@given(st.lists(st.integers(), unique=True, min_size=1, max_size=6))
def test_over_the_rounds_each_way_is_first_once(ways: list[int]) -> None:
    orders = [turned(ways, number) for number in range(len(ways))]
    assert [order[0] for order in orders] == ways
    assert all(sorted(order) == sorted(ways) for order in orders)
    assert turned(ways, len(ways)) == ways

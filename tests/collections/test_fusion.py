"""Fusion of ranks and scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vecserve_server.collections.hits.fusion import Ranked, from_dense, from_lexical, fuse
from vecserve_server.domain.searching import Fusion, ReciprocalRank, WeightedSum

SIDES = st.dictionaries(
    st.integers(1, 12), st.floats(-1, 30, allow_nan=False, width=32), max_size=10
)
FUSIONS: st.SearchStrategy[Fusion] = st.one_of(
    st.builds(ReciprocalRank, st.integers(1, 1000), st.floats(0, 10), st.floats(0, 10)),
    st.builds(WeightedSum, st.floats(0, 10), st.floats(0, 10)),
)


class Side(NamedTuple):
    """What one side found, as exact as the numbers that the tests compute with."""

    seqs: NDArray[np.int64]
    scores: NDArray[np.float64]


def ranked(side: dict[int, float]) -> Ranked:
    best = sorted(side, key=lambda seq: (-side[seq], seq))
    return Side(np.array(best, np.int64), np.array([side[seq] for seq in best], np.float64))


@given(SIDES, SIDES, FUSIONS)
def test_every_candidate_comes_once_with_both_its_parts_best_first(
    dense: dict[int, float], lexical: dict[int, float], fusion: Fusion
) -> None:
    fused = fuse(ranked(dense), ranked(lexical), fusion)
    assert sorted(candidate.seq for candidate in fused) == sorted({*dense, *lexical})
    scores = [candidate.score for candidate in fused]
    assert scores == sorted(scores, reverse=True)
    for candidate in fused:
        for part, side in ((candidate.dense, dense), (candidate.lexical, lexical)):
            assert (part.score if part else None) == side.get(candidate.seq)


@given(SIDES, SIDES, st.integers(1, 1000), st.floats(0, 10), st.floats(0, 10))
def test_reciprocal_rank_is_the_sum_over_the_sides(
    dense: dict[int, float], lexical: dict[int, float], constant: int, first: float, second: float
) -> None:
    fusion = ReciprocalRank(constant, first, second)
    for candidate in fuse(ranked(dense), ranked(lexical), fusion):
        parts = ((candidate.dense, first), (candidate.lexical, second))
        expected = math.fsum(weight / (constant + part.rank) for part, weight in parts if part)
        assert math.isclose(candidate.score, expected, abs_tol=1e-12)


def test_of_equal_sums_the_better_by_words_comes_first() -> None:
    fused = fuse(ranked({1: 0.9, 2: 0.8}), ranked({4: 7.0, 3: 6.0, 2: 5.0}), ReciprocalRank())
    assert [candidate.seq for candidate in fused] == [2, 4, 1, 3]


def test_weights_scale_scores_that_span_0_to_1() -> None:
    dense, lexical = ranked({1: 0.9, 2: 0.5, 3: 0.1}), ranked({2: 20.0, 4: 10.0})
    scores = {c.seq: c.score for c in fuse(dense, lexical, WeightedSum(dense=2, lexical=1))}
    assert scores == {1: 2.0, 2: 2.0, 3: 0.0, 4: 0.0}
    alone = fuse(ranked({}), ranked({7: 3.0}), WeightedSum(dense=1, lexical=0.5))
    assert [(c.seq, c.score) for c in alone] == [(7, 0.5)]


def test_one_side_keeps_its_own_order_and_scores() -> None:
    side = ranked({1: 0.5, 2: 0.75})
    assert [(c.seq, c.score, c.lexical) for c in from_dense(side)] == [
        (2, 0.75, None),
        (1, 0.5, None),
    ]
    assert [(c.seq, c.dense) for c in from_lexical(side)] == [(2, None), (1, None)]

"""Picking and re-ranking candidates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from vecserve_server.index.vectors.ranking import best_positions, rank

# Few different values, so that ties are everywhere; enough rows to reduce columns of scores first.
_SCORES = hnp.arrays(
    np.float32,
    st.integers(0, 1000),
    elements=st.sampled_from(np.array([-np.inf, -1, 0, 0.5, 1, 2, 3], np.float32).tolist()),
)


@given(_SCORES, st.integers(1, 40))
def test_the_best_positions_are_those_of_a_full_sort(
    scores: NDArray[np.float32], count: int
) -> None:
    expected = sorted(range(len(scores)), key=lambda position: (-scores[position], position))
    found = best_positions(scores, count)
    assert found.tolist() == [at for at in expected[:count] if scores[at] > -np.inf]


def test_equal_vectors_score_alike_and_are_ordered_by_seq() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((1, 37)), 13, axis=0).astype(np.float16)
    seqs = rng.permutation(13)
    found = rank(rng.standard_normal(37).astype(np.float32), seqs, vectors, 5)
    assert found.seqs.tolist() == [0, 1, 2, 3, 4]
    assert len(set(found.scores.tolist())) == 1


def test_the_score_is_the_cosine_whatever_the_lengths() -> None:
    vectors = np.array([[3, 0], [0.5, 0.5], [0, 0], [-2, 0]], np.float16)
    for length in (1e-20, 1.0, 1e30):
        query = np.array([length, 0], np.float32)
        found = rank(query, np.arange(4), vectors, 4)
        np.testing.assert_allclose(found.scores, [1, np.sqrt(0.5), 0, -1], rtol=1e-6)

"""The last step of an embed call: dimensions and length."""

from __future__ import annotations

import numpy as np
import pytest

from vecserve_server.domain.vectors import Encodings, Vectors
from vecserve_server.serving.embedder import finish


@pytest.fixture
def raw() -> Vectors:
    return np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


@pytest.fixture
def encodings(raw: Vectors) -> Encodings:
    norms = np.linalg.norm(raw, axis=1)
    return Encodings(raw / norms[:, None], norms)


@pytest.mark.parametrize("dim", [1, 5, 8])
def test_normalised_vectors_have_length_one_whatever_is_cut(encodings: Encodings, dim: int) -> None:
    vectors = finish(encodings, dim=dim, normalise=True)

    assert vectors.shape == (5, dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 5, 8])
def test_others_are_the_pooled_ones(encodings: Encodings, raw: Vectors, dim: int) -> None:
    vectors = finish(encodings, dim=dim, normalise=False)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, raw[:, :dim], rtol=1e-5)


def test_a_vector_of_zeros_stays_one() -> None:
    nothing = Encodings(np.zeros((1, 4), np.float32), np.zeros(1, np.float32))

    for normalise in (True, False):
        assert not finish(nothing, dim=2, normalise=normalise).any()

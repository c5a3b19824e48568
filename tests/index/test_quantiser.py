"""The int8 quantiser."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vecserve_server.domain import Vectors
from vecserve_server.index.quantiser import MaxAbsQuantiser

_VECTORS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(_VECTORS)
def test_each_component_is_within_half_a_step_of_its_code(vectors: Vectors) -> None:
    codes = MaxAbsQuantiser().encode(vectors)
    assert codes.dtype == np.int8
    assert codes.shape == vectors.shape
    for vector, code in zip(vectors.astype(np.float64), codes, strict=True):
        step = max(np.abs(vector).max(), 1e-30) / 127
        assert np.abs(vector / step - code).max() <= 0.5 + 1e-4


def test_a_vector_is_encoded_alike_alone_and_in_company() -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32)
    alone = [MaxAbsQuantiser().encode(vectors[row : row + 1])[0] for row in range(50)]
    assert np.array_equal(MaxAbsQuantiser().encode(vectors), alone)


def test_scaling_a_vector_does_not_change_its_code() -> None:
    vector = np.array([[0.5, -0.25, 0.1, 0]], np.float32)
    assert MaxAbsQuantiser().encode(vector).tolist() == [[127, -64, 25, 0]]
    assert MaxAbsQuantiser().encode(vector * 8).tolist() == [[127, -64, 25, 0]]

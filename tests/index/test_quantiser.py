"""The int8 quantiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.index.oracle import clustered
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import CorruptData
from vecserve_server.index.vectors.quantiser import (
    MaxAbsQuantiser,
    RotatedQuantiser,
    load_quantiser,
    save_quantiser,
)

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


def test_rotated_codes_keep_the_order_of_cosines() -> None:
    vectors, queries = clustered(2000, 64, seed=1), clustered(50, 64, seed=2)
    quantiser = RotatedQuantiser.fit(vectors[:1000], seed=0)
    codes = quantiser.encode(vectors).astype(np.int32)
    for query, code in zip(queries, quantiser.encode(queries).astype(np.int32), strict=True):
        best = np.argsort(-(vectors @ query))[:10]
        nearest = np.argsort(((codes - code) ** 2).sum(axis=1))[:20]
        assert np.isin(best, nearest).all()


def test_rotated_codes_use_their_range_and_clip_little() -> None:
    vectors = clustered(2000, 32, seed=1)
    quantiser = RotatedQuantiser.fit(vectors, seed=0)
    codes = quantiser.encode(vectors)
    assert np.abs(codes.astype(np.int16)).max() == 127
    assert quantiser.clip_rate(vectors) < 2e-4
    strangers = -vectors[:, ::-1]
    assert quantiser.clip_rate(np.ascontiguousarray(strangers)) > quantiser.clip_rate(vectors)


def test_the_length_of_a_vector_does_not_change_its_rotated_code() -> None:
    vectors = clustered(100, 16, seed=1)
    quantiser = RotatedQuantiser.fit(vectors, seed=0)
    assert np.array_equal(quantiser.encode(vectors), quantiser.encode(vectors * 4))


@pytest.mark.parametrize("rotated", [False, True])
def test_a_quantiser_comes_back_from_its_file(tmp_path: Path, rotated: bool) -> None:
    vectors = clustered(200, 16, seed=1)
    made = RotatedQuantiser.fit(vectors, seed=3) if rotated else MaxAbsQuantiser()
    save_quantiser(tmp_path / "q.npz", made)
    read = load_quantiser(tmp_path / "q.npz")
    assert (read.name, read.metric) == (made.name, made.metric)
    assert np.array_equal(read.encode(vectors), made.encode(vectors))


def test_a_quantiser_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "q.npz", name=np.array("rotated-int4-v9"))
    with pytest.raises(CorruptData, match="rotated-int4-v9"):
        load_quantiser(tmp_path / "q.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.npz").write_bytes(content)
    with pytest.raises(CorruptData, match=r"q\.npz: is damaged"):
        load_quantiser(tmp_path / "q.npz")


def test_a_quantiser_that_cannot_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        load_quantiser(tmp_path)

"""Vectors on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from vecserve.v1 import common_pb2, embedding_pb2
from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.vecserve.converters import (
    BINARY,
    F16,
    F32,
    INT8,
    read_embed_options,
    read_vector,
    vector_writer,
)

vectors = npst.arrays(
    np.float32, st.integers(1, 64), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


@given(vectors)
def test_f32_is_exact_in_bytes_and_in_numbers(vector: np.ndarray) -> None:
    for float_list in (False, True):
        message = vector_writer(F32, float_list=float_list)(vector)
        np.testing.assert_array_equal(read_vector(("v",), message), vector)


@given(vectors)
def test_f16_rounds_to_the_nearest_half(vector: np.ndarray) -> None:
    message = vector_writer(F16, float_list=False)(vector)
    np.testing.assert_array_equal(read_vector(("v",), message), vector.astype(np.float16))


@given(vectors)
def test_int8_is_within_half_a_step(vector: np.ndarray) -> None:
    message = vector_writer(INT8, float_list=False)(vector)
    decoded = np.frombuffer(message.data, np.int8) * message.scale
    assert np.abs(decoded - vector).max() <= message.scale * 0.5001 + 1e-7


@given(vectors)
def test_binary_keeps_the_signs(vector: np.ndarray) -> None:
    message = vector_writer(BINARY, float_list=False)(vector)
    bits = np.unpackbits(np.frombuffer(message.data, np.uint8))[: vector.size]
    np.testing.assert_array_equal(bits.astype(bool), vector > 0)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (common_pb2.Vector(data=b"123"), "has 3 bytes; 4 bytes make a component"),
        (common_pb2.Vector(dim=3, data=b"1234"), "is 3, but 1 components came"),
        (common_pb2.Vector(encoding=BINARY, data=b"1"), "must be F32, F16 or INT8"),
        (common_pb2.Vector(data=b"1234" * 8193), "has 8193 components; the limit is 8192"),
    ],
)
def test_bad_vectors_are_refused_by_name(message: common_pb2.Vector, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        read_vector(("v",), message)


def test_a_list_of_floats_is_counted_before_it_is_read() -> None:
    class Unread:
        def __len__(self) -> int:
            return 10**9

        def __iter__(self) -> Iterator[float]:
            raise AssertionError("a client's list of any length is read")

    message: Any = SimpleNamespace(values=Unread())
    with pytest.raises(InvalidArgument, match="has 1000000000 components; the limit is 8192"):
        read_vector(("v",), message)


def test_a_list_of_floats_goes_only_with_f32() -> None:
    with pytest.raises(InvalidArgument, match=r"options\.float_list"):
        vector_writer(INT8, float_list=True)


@pytest.mark.parametrize(
    ("truncation", "meaning"),
    [
        (embedding_pb2.TRUNCATION_UNSPECIFIED, None),
        (embedding_pb2.TRUNCATION_RIGHT, "right"),
        (embedding_pb2.TRUNCATION_LEFT, "left"),
        (embedding_pb2.TRUNCATION_ERROR, "error"),
    ],
)
def test_a_truncation_that_is_not_stated_is_left_to_the_model(
    truncation: embedding_pb2.Truncation.ValueType, meaning: str | None
) -> None:
    message = embedding_pb2.EmbedOptions(truncation=truncation)

    assert read_embed_options(message).truncate == meaning

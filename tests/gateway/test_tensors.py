"""KServe tensors as tritonclient writes them, and as nobody should."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.kserve.tensors import (
    NUMPY_TYPES,
    TYPED_CONTENTS,
    read_raw,
    read_typed,
    write_raw,
)

Tensor: TypeAlias = service_pb2.ModelInferRequest.InferInputTensor
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
DATATYPES = st.sampled_from([*NUMPY_TYPES, "BYTES", "COMPLEX", ""])
NUMBERS = st.sampled_from(sorted(NUMPY_TYPES))


def described(datatype: str, shape: Any, **contents: object) -> Tensor:
    tensor = Tensor(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return tensor


def numbers(datatype: str, shape: Any = SHAPES) -> st.SearchStrategy[NDArray[Any]]:
    if datatype == "BF16":  # any bits, not-a-number among them
        return hnp.arrays(np.uint16, shape).map(lambda bits: bits.view(ml_dtypes.bfloat16))
    return hnp.arrays(np.dtype(NUMPY_TYPES[datatype]), shape)


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def byte_tensors(shape: tuple[int, ...]) -> st.SearchStrategy[NDArray[Any]]:
    return hnp.arrays(object, shape, elements=st.binary(max_size=20), fill=st.nothing())


@given(SHAPES.flatmap(byte_tensors))
def test_bytes_are_written_and_read_in_tritonclients_encoding(tensor: NDArray[Any]) -> None:
    raw = write_raw("BYTES", tensor)
    if tensor.size:
        assert raw == serialize_byte_tensor(tensor).item()
        assert deserialize_bytes_tensor(raw).tolist() == tensor.ravel().tolist()
    read = read_raw(described("BYTES", tensor.shape), raw)
    assert read.tolist() == tensor.tolist()


@given(NUMBERS.flatmap(lambda name: st.tuples(st.just(name), numbers(name))), st.integers(0, 9))
def test_numbers_are_read_as_they_were_written(case: tuple[str, NDArray[Any]], offset: int) -> None:
    datatype, tensor = case
    raw = write_raw(datatype, tensor)
    assert_same(read_raw(described(datatype, tensor.shape), raw), tensor)
    unaligned = memoryview(bytes(offset) + raw)[offset:]
    read = read_raw(described(datatype, tensor.shape), unaligned)
    assert read.flags.aligned
    assert_same(read, tensor)


@given(NUMBERS.flatmap(lambda name: st.tuples(st.just(name), numbers(name))))
def test_typed_contents_are_the_same_tensor(case: tuple[str, NDArray[Any]]) -> None:
    datatype, tensor = case
    if datatype not in TYPED_CONTENTS:
        with pytest.raises(InvalidArgument, match="no typed contents"):
            read_typed(described(datatype, tensor.shape))
        return
    contents = {TYPED_CONTENTS[datatype]: tensor.ravel().tolist()}
    read = read_typed(described(datatype, tensor.shape, **contents))
    assert read.dtype == tensor.dtype
    np.testing.assert_array_equal(read, tensor)


@given(st.binary(min_size=1, max_size=8))
def test_any_byte_but_zero_is_true(raw: bytes) -> None:
    read = read_raw(described("BOOL", [len(raw)]), raw)
    assert read.view(np.uint8).tolist() == [int(byte != 0) for byte in raw]


@pytest.mark.parametrize(
    ("bad", "raw", "problem"),
    [
        (described("BYTES", [1]), b"\x05\x00\x00\x00ab", "ends inside an element of 5 bytes"),
        (described("BYTES", [1]), b"\x05\x00", "has 2 bytes; its 1 elements take 4"),
        (described("BYTES", [2]), b"\x03\x00\x00\x00abc\x01", "ends inside the length"),
        (described("BYTES", [2]), b"\x00\x00\x00\x00", "its 2 elements take 4 each"),
        (described("BYTES", [1]), b"\x00" * 8, "has 8 bytes; its 1 elements end at 4"),
        (
            described("BYTES", [10**9, 1]),
            b"\x00" * 4,
            "has 1000000000 elements; the limit is 1048576",
        ),
        (described("BYTES", [1 << 20]), b"\x00" * 4, "its 1048576 elements take"),
        (described("BYTES", [2**62, 4]), b"\x00" * 4, r"sizes must be >= 0 and < 2\^31"),
        (described("INT64", [0, 2**62, 2**62]), b"", r"sizes must be >= 0 and < 2\^31"),
        (described("INT64", [1] * 65), b"\x00" * 8, "has 65 dimensions; the limit is 8"),
        (described("INT64", [2]), b"\x00" * 15, r"has 15 bytes; its shape \[2\] takes 16"),
        (described("INT64", [-1]), b"", "sizes must be >= 0"),
        (described("COMPLEX", [1]), b"\x00", "datatype 'COMPLEX', which is unknown"),
        (described("INT8", [1], int_contents=[1]), b"\x01", "has contents beside its bytes"),
    ],
)
def test_malformed_bytes_are_refused_by_name(bad: Tensor, raw: bytes, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=f"input 'x': .*{problem}"):
        read_raw(bad, raw)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (described("INT8", [1], int_contents=[300]), "holds values that INT8 cannot hold"),
        (described("UINT16", [1], uint_contents=[70000]), "holds values that UINT16 cannot hold"),
        (described("FP16", [1]), "no typed contents"),
        (described("INT8", [2], int_contents=[1]), "has 1 elements"),
        (described("INT8", [1 << 23], int_contents=[1]), "the limit is 4194304"),
        (described("BYTES", [1 << 21], bytes_contents=[b""]), "the limit is 1048576"),
        (described("INT8", [1], int_contents=[1], fp32_contents=[1.0]), "has fp32_contents"),
    ],
)
def test_malformed_contents_are_refused_by_name(bad: Tensor, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=f"input 'x': .*{problem}"):
        read_typed(bad)


@given(
    DATATYPES,
    st.lists(st.one_of(st.integers(-1, 5), st.integers(-(2**63), 2**63 - 1)), max_size=10),
    st.binary(max_size=60),
)
def test_no_bytes_cause_anything_but_a_tensor_or_a_clear_refusal(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    field = "input 'x'"
    try:
        read = read_raw(described(datatype, shape), raw)
    except InvalidArgument as refusal:
        field = refusal.field
        read = np.empty(0)
    assert field == "input 'x'"
    if not read.size:
        return
    assert read.shape == tuple(shape)
    assert read.size == math.prod(shape)
    assert read.size <= max(1, len(raw))

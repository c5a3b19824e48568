"""KServe tensors as tritonclient writes them, and as nobody should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from vecserve_server.errors import InvalidArgument
from vecserve_server.gateway.tensors import read_inputs

Tensor = service_pb2.ModelInferRequest.InferInputTensor


def request(
    datatype: str, shape: list[int], raw: bytes | None = None, **contents: object
) -> service_pb2.ModelInferRequest:
    tensor = Tensor(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return service_pb2.ModelInferRequest(
        inputs=[tensor], raw_input_contents=[] if raw is None else [raw]
    )


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10))
def test_bytes_round_trip_in_tritonclients_encoding(elements: list[bytes]) -> None:
    tensor = np.array(elements, object).reshape(-1, 1)
    raw = serialize_byte_tensor(tensor).item()
    read = read_inputs(request("BYTES", [len(elements), 1], raw))["x"]
    assert read.shape == (len(elements), 1)
    assert read.ravel().tolist() == elements


@pytest.mark.parametrize("datatype", ["INT64", "FP32", "UINT8", "FP16", "BOOL"])
def test_numbers_round_trip(datatype: str) -> None:
    numpy_type = {"INT64": "<i8", "FP32": "<f4", "UINT8": "u1", "FP16": "<f2", "BOOL": "?"}
    tensor = np.arange(6).reshape(2, 3).astype(numpy_type[datatype])
    read = read_inputs(request(datatype, [2, 3], tensor.tobytes()))["x"]
    np.testing.assert_array_equal(read, tensor)


def test_typed_contents_are_read() -> None:
    texts = read_inputs(request("BYTES", [2], bytes_contents=[b"a", b"b"]))["x"]
    tokens = read_inputs(request("INT64", [1, 3], int64_contents=[1, 2, 3]))["x"]
    assert texts.tolist() == [b"a", b"b"]
    assert tokens.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (request("BYTES", [1], b"\x05\x00\x00\x00ab"), "ends inside an element of 5 bytes"),
        (request("BYTES", [1], b"\x05\x00"), "ends inside the length"),
        (request("BYTES", [2], b"\x00\x00\x00\x00"), r"has 1 elements; its shape \[2\] takes 2"),
        (request("BYTES", [1], b"\x00" * 8), r"has 2 elements; its shape \[1\] takes 1"),
        (request("BYTES", [10**9, 1], b"\x00" * 4), "has 1 elements; its shape"),
        (request("BYTES", [2**62, 4], b"\x00" * 4), r"sizes must be >= 0 and < 2\^31"),
        (request("INT64", [0, 2**62, 2**62], b""), r"sizes must be >= 0 and < 2\^31"),
        (request("INT64", [1] * 65, b"\x00" * 8), "has 65 dimensions; the limit is 8"),
        (request("INT8", [1], int_contents=[300]), "holds values that INT8 cannot hold"),
        (request("UINT16", [1], uint_contents=[70000]), "holds values that UINT16 cannot hold"),
        (request("INT64", [2], b"\x00" * 15), "has 15 bytes; its shape takes 16"),
        (request("INT64", [-1], b""), "sizes must be >= 0"),
        (request("COMPLEX", [1], b"\x00"), "datatype 'COMPLEX', which is unknown"),
        (request("FP16", [1]), "no typed contents"),
    ],
)
def test_malformed_tensors_are_refused_by_name(
    bad: service_pb2.ModelInferRequest, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"input 'x': .*{problem}"):
        read_inputs(bad)


def test_an_input_must_not_come_twice() -> None:
    tensor = Tensor(name="x", datatype="BYTES", shape=[0])
    twice = service_pb2.ModelInferRequest(inputs=[tensor, tensor])
    with pytest.raises(InvalidArgument, match="comes twice"):
        read_inputs(twice)


@given(st.binary(max_size=60), st.integers(0, 5))
def test_no_raw_bytes_cause_anything_but_a_clear_refusal(raw: bytes, count: int) -> None:
    problem = ""
    try:
        assert read_inputs(request("BYTES", [count], raw))["x"].shape == (count,)
    except InvalidArgument as refusal:
        problem = str(refusal)
    assert not problem or problem.startswith("input 'x'")

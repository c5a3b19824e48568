"""ModelInfer over a model that returns its inputs: datatypes, selection, parameters, refusals."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from grpc import aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from tests.gateway.echo_model import DATATYPES, NUMBERS, EchoServer
from vecserve_server.domain.tensors import TensorReply, TensorRequest
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import (
    Draining,
    EngineError,
    FailedPrecondition,
    Overloaded,
    StorageError,
)
from vecserve_server.gateway.kserve import infer
from vecserve_server.gateway.kserve.tensors import write_raw

Request: TypeAlias = service_pb2.ModelInferRequest
Code = grpc.StatusCode
PATIENCE_S = 60.0


def some(datatype: str) -> Any:
    """A tensor [2, 3] as tritonclient takes it."""
    if datatype == "BYTES":
        return np.array([[b"", b"a", "ü".encode()], [b"\xff\x00", b"x" * 300, b"0"]], object)
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    numbers = np.array([[0, 1, 2], [100, 5, 3]])
    return numbers.astype(triton_to_np_dtype(datatype))


def typed_request(datatype: str, field: str, values: Any, shape: list[int]) -> Request:
    tensor = {"name": datatype, "datatype": datatype, "shape": shape}
    return Request(
        model_name="echo",
        inputs=[tensor | {"contents": {field: values}}],
        outputs=[{"name": f"OUT_{datatype}"}],
    )


async def refusal(stub: Any, request: Request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as failure:
        await stub.ModelInfer(request)
    return failure.value.code(), failure.value.details() or ""


async def test_large_outputs_are_not_written_on_the_event_loop(
    echo: EchoServer, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def write(datatype: str, tensor: Any) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return write_raw(datatype, tensor)

    monkeypatch.setattr(infer, "write_raw", write)
    for size in (4, infer.COPY_ON_LOOP_BYTES + 1):
        tensor = np.arange(size, dtype=np.uint8)[None]
        request = service_pb2.ModelInferRequest(model_name="echo")
        request.inputs.add(name="UINT8", datatype="UINT8", shape=tensor.shape)
        request.outputs.add(name="OUT_UINT8")
        request.raw_input_contents.append(tensor.tobytes())
        response = await stub.ModelInfer(request)
        assert response.raw_output_contents[0] == tensor.tobytes()
    assert threads == [True, False]


@pytest.mark.parametrize("datatype", DATATYPES)
async def test_each_datatype_comes_back_as_it_went(echo: EchoServer, datatype: str) -> None:
    tensor = some(datatype)
    given = triton.InferInput(datatype, tensor.shape, datatype)
    given.set_data_from_numpy(tensor)
    async with triton.InferenceServerClient(echo.target) as client:
        wanted = [triton.InferRequestedOutput(f"OUT_{datatype}")]
        result = await client.infer("echo", [given], outputs=wanted, request_id="a/7")
    np.testing.assert_array_equal(result.as_numpy(f"OUT_{datatype}"), tensor)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("a/7", "echo", "1")
    assert response.outputs[0].datatype == datatype


@pytest.mark.parametrize(
    ("datatype", "field"),
    [
        ("BOOL", "bool_contents"),
        *((name, "int_contents") for name in ("INT8", "INT16", "INT32")),
        *((name, "uint_contents") for name in ("UINT8", "UINT16", "UINT32")),
        ("INT64", "int64_contents"),
        ("UINT64", "uint64_contents"),
        ("FP32", "fp32_contents"),
        ("FP64", "fp64_contents"),
        ("BYTES", "bytes_contents"),
    ],
)
async def test_typed_contents_are_the_same_tensor(stub: Any, datatype: str, field: str) -> None:
    tensor = some(datatype)
    request = typed_request(datatype, field, tensor.ravel().tolist(), [2, 3])
    response = await stub.ModelInfer(request)
    raw = triton.InferResult(response).as_numpy(f"OUT_{datatype}")
    np.testing.assert_array_equal(raw, tensor)


async def test_outputs_come_in_the_order_asked_for_each_with_its_bytes(stub: Any) -> None:
    inputs = [{"name": n, "datatype": n, "shape": [1, 1]} for n in ("INT8", "UINT8", "BOOL")]
    outputs = [{"name": name} for name in ("OUT_BOOL", "OUT_INT8")]
    request = Request(
        model_name="echo",
        inputs=inputs,
        outputs=outputs,
        raw_input_contents=[b"\x01", b"\x02", b"\x01"],
    )
    response = await stub.ModelInfer(request)
    assert [output.name for output in response.outputs] == ["OUT_BOOL", "OUT_INT8"]
    assert list(response.raw_output_contents) == [b"\x01", b"\x01"]


async def test_classes_come_best_first_with_their_labels(echo: EchoServer) -> None:
    echo.model.labels = {"OUT_FP32": ["cat", "dog"]}
    given = triton.InferInput("FP32", [2, 3], "FP32")
    given.set_data_from_numpy(np.array([[0.5, -1, 2], [3, 3, 1]], np.float32))
    async with triton.InferenceServerClient(echo.target) as client:
        wanted = [triton.InferRequestedOutput("OUT_FP32", class_count=2)]
        best = (await client.infer("echo", [given], outputs=wanted)).as_numpy("OUT_FP32")
    assert best.tolist() == [
        [b"2.000000:2", b"0.500000:0:cat"],
        [b"3.000000:0:cat", b"3.000000:1:dog"],
    ]


async def test_parameters_reach_the_model_and_strange_ones_are_passed_over(
    echo: EchoServer,
) -> None:
    given = triton.InferInput("INT8", [1, 1], "INT8")
    given.set_data_from_numpy(np.zeros((1, 1), np.int8))
    wanted = [triton.InferRequestedOutput("OUT_INT8")]
    mine = {"team": "search", "ratio": 0.5, "tries": 3, "dry": True}
    async with triton.InferenceServerClient(echo.target) as client:
        await client.infer(
            "echo",
            [given],
            outputs=wanted,
            priority=2**64 - 1,
            timeout=1500,
            parameters=mine,
            client_timeout=30.0,
        )
    (seen,) = echo.model.requests
    assert (seen.priority, seen.timeout_us, seen.outputs) == (2**64 - 1, 1500, ("OUT_INT8",))
    assert seen.deadline_ns is not None


def bad(**changes: Any) -> Request:
    """A good request with one INT8 and one BYTES input, changed."""
    request = Request(
        model_name="echo",
        inputs=[
            {"name": "INT8", "datatype": "INT8", "shape": [1, 2]},
            {"name": "BYTES", "datatype": "BYTES", "shape": [1, 1]},
        ],
        outputs=[{"name": "OUT_INT8"}],
        raw_input_contents=[b"\x01\x02", b"\x01\x00\x00\x00a"],
    )
    for name, value in changes.items():
        request.ClearField(name)
        request.MergeFrom(Request(**{name: value}))
    return request


def int8(**fields: Any) -> list[dict[str, Any]]:
    return [{"name": "INT8", "datatype": "INT8", "shape": [1, 2]} | fields]


def parameter(name: str, **value: Any) -> dict[str, Any]:
    return {"parameters": {name: service_pb2.InferParameter(**value)}}


RAW = [b"\x01\x02"]
MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "too few bytes": ({"inputs": int8(), "raw_input_contents": [b"\x01"]}, "input 'INT8': has 1 "),
    "too many bytes": ({"inputs": int8(), "raw_input_contents": [b"abc"]}, "input 'INT8': has 3 "),
    "wrong datatype": (
        {"inputs": int8(datatype="FP32"), "raw_input_contents": RAW},
        "input 'INT8': has the datatype 'FP32'; the model takes INT8",
    ),
    "no datatype": (
        {"inputs": int8(datatype=""), "raw_input_contents": RAW},
        "input 'INT8': has the datatype ''",
    ),
    "mixed contents": (
        {"inputs": int8(contents={"int_contents": [1, 2]}), "raw_input_contents": RAW},
        "input 'INT8': has contents beside its bytes",
    ),
    "contents of another type": (
        {"inputs": int8(contents={"fp32_contents": [1, 2]}), "raw_input_contents": []},
        "input 'INT8': has fp32_contents; INT8 takes int_contents alone",
    ),
    "too few contents": (
        {"inputs": int8(contents={"int_contents": [1]}), "raw_input_contents": []},
        "input 'INT8': has 1 elements",
    ),
    "contents out of range": (
        {"inputs": int8(contents={"int_contents": [1, 300]}), "raw_input_contents": []},
        "input 'INT8': holds values that INT8 cannot hold",
    ),
    "FP16 typed": (
        {
            "inputs": [
                {
                    "name": "FP16",
                    "datatype": "FP16",
                    "shape": [1, 1],
                    "contents": {"fp32_contents": [1]},
                }
            ],
            "raw_input_contents": [],
        },
        "input 'FP16': has no typed contents",
    ),
    "missing raw entry": ({"raw_input_contents": RAW}, "raw_input_contents: has 1 entries for 2"),
    "unknown input": (
        {"inputs": int8(name="NOPE"), "raw_input_contents": RAW},
        "input 'NOPE': is unknown; the model has 'BOOL'",
    ),
    "duplicate input": (
        {"inputs": int8() * 2, "raw_input_contents": RAW * 2},
        "input 'INT8': comes twice",
    ),
    "negative dim": (
        {"inputs": int8(shape=[1, -2]), "raw_input_contents": RAW},
        "input 'INT8': has the shape [1, -2]",
    ),
    "huge dims": (
        {"inputs": int8(shape=[1, 2**62]), "raw_input_contents": RAW},
        "input 'INT8': has the shape",
    ),
    "wrong rank": (
        {"inputs": int8(shape=[1, 1, 2]), "raw_input_contents": RAW},
        "input 'INT8': has the shape [1, 1, 2]; the model takes [-1, -1]",
    ),
    "too many rows": (
        {"inputs": int8(shape=[9, 1]), "raw_input_contents": [b"x" * 9]},
        "input 'INT8': has 9 rows; 1 to max_batch_size = 8",
    ),
    "no rows": (
        {"inputs": int8(shape=[0, 2]), "raw_input_contents": [b""]},
        "input 'INT8': has 0 rows",
    ),
    "rows that differ": (
        {
            "inputs": [
                *int8(),
                {"name": "UINT8", "datatype": "UINT8", "shape": [2, 1]},
            ],
            "raw_input_contents": [b"\x01\x02", b"\x01\x02"],
        },
        "input 'UINT8': has 2 rows; the inputs before it have 1",
    ),
    "unknown output": ({"outputs": [{"name": "NOPE"}]}, "output 'NOPE': is unknown"),
    "duplicate output": (
        {"outputs": [{"name": "OUT_INT8"}] * 2},
        "output 'OUT_INT8': is requested twice",
    ),
    "reserved parameter": (
        parameter("triton_made_up", bool_param=True),
        "'triton_made_up' is reserved",
    ),
    "negative timeout": (parameter("timeout", int64_param=-1), "'timeout' must be a whole number"),
    "textual priority": (parameter("priority", string_param="1"), "'priority' must be a whole"),
    "boolean priority": (parameter("priority", bool_param=True), "'priority' must be a whole"),
    "empty parameter": (parameter("timeout"), "'timeout' has no value"),
    "final response flag of the wrong type": (
        parameter("triton_enable_empty_final_response", int64_param=1),
        "must be true or false",
    ),
    "classification that is not a number": (
        {"outputs": [{"name": "OUT_INT8"} | parameter("classification", string_param="1")]},
        "output 'OUT_INT8': 'classification' must be",
    ),
    "classification of BYTES": (
        {"outputs": [{"name": "OUT_BYTES"} | parameter("classification", int64_param=1)]},
        "output 'OUT_BYTES': has the datatype BYTES; it cannot be classified",
    ),
    "shared memory without its size": (
        {
            "inputs": int8(**parameter("shared_memory_region", string_param="r")),
            "raw_input_contents": [],
        },
        "input 'INT8': has 'shared_memory_region' without 'shared_memory_byte_size'",
    ),
    "offset without shared memory": (
        {"outputs": [{"name": "OUT_INT8"} | parameter("shared_memory_offset", int64_param=1)]},
        "output 'OUT_INT8': has 'shared_memory_offset' without",
    ),
    "no model": ({"model_name": ""}, "model_name: is empty"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_requests_are_refused_by_name(stub: Any, case: str) -> None:
    changes, problem = MALFORMED[case]
    code, details = await refusal(stub, bad(**changes))
    assert (code, problem in details) == (Code.INVALID_ARGUMENT, True), details


async def test_the_unchanged_request_is_good(stub: Any) -> None:
    assert (await stub.ModelInfer(bad())).outputs[0].shape == [1, 2]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (bad(model_name="none"), Code.NOT_FOUND),
        (bad(model_version="2"), Code.NOT_FOUND),
        (bad(**parameter("sequence_id", int64_param=7)), Code.UNIMPLEMENTED),
        (bad(**parameter("sequence_id", string_param="s")), Code.UNIMPLEMENTED),
        (bad(**parameter("sequence_start", bool_param=True)), Code.UNIMPLEMENTED),
    ],
)
async def test_other_refusals_have_tritons_codes(
    stub: Any, request_: Request, code: grpc.StatusCode
) -> None:
    assert (await refusal(stub, request_))[0] == code


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (
            Overloaded("8 wait", retry_after_ms=1),
            Code.UNAVAILABLE,
            "Exceeds maximum queue size: 8 wait",
        ),
        (Draining("bye"), Code.UNAVAILABLE, "bye"),
        (FailedPrecondition("not now"), Code.UNAVAILABLE, "not now"),
        (StorageError("/secret/path"), Code.INTERNAL, "storage error"),
        (EngineError("secret.cc:17"), Code.INTERNAL, "internal error"),
        (ZeroDivisionError("secret"), Code.INTERNAL, "internal error"),
    ],
)
async def test_failures_of_the_model_are_told_as_triton_does(
    echo: EchoServer, stub: Any, failure: Exception, code: grpc.StatusCode, words: str
) -> None:
    echo.model.failure = failure
    told = await refusal(stub, bad())
    assert told[0] == code
    assert words in told[1]
    assert "secret" not in told[1]


@pytest.mark.parametrize("datatype", NUMBERS)
async def test_empty_tensors_come_back_empty(stub: Any, datatype: str) -> None:
    request = Request(
        model_name="echo",
        inputs=[{"name": datatype, "datatype": datatype, "shape": [3, 0]}],
        outputs=[{"name": f"OUT_{datatype}"}],
        raw_input_contents=[b""],
    )
    response = await stub.ModelInfer(request)
    assert response.outputs[0].shape == [3, 0]
    assert list(response.raw_output_contents) == [b""]


async def test_a_call_that_is_cancelled_stops_its_work(echo: EchoServer, stub: Any) -> None:
    echo.model.gate.clear()
    call = stub.ModelInfer(bad())
    async with asyncio.timeout(PATIENCE_S):
        await echo.model.arrived.get()
        call.cancel()
        await echo.model.left.get()


async def test_an_output_that_the_model_lacks_is_told_by_an_id_alone(
    echo: EchoServer, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(request: TensorRequest) -> TensorReply:
        assert request.outputs
        return TensorReply(outputs={}, times=Timings())

    monkeypatch.setattr(echo.model, "infer", nothing)
    code, words = await refusal(stub, bad(outputs=[{"name": "OUT_INT8"}]))
    assert code == Code.INTERNAL
    assert words.startswith("internal error ")

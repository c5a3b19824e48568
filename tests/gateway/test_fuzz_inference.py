"""Whatever comes in, a request is answered or refused for a reason that the caller can mend."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import grpc
import pytest
from google.protobuf.message import DecodeError, Message
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.gateway.echo_model import (
    EchoModel,
    EchoServer,
    OneModel,
    echo_config,
    echo_regions,
    echo_scope,
)
from tests.gateway.mutations import COUNT, PARAMETERS, mutated, scrambled
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.errors import RequestError
from vecserve_server.gateway.kserve.contract import make_contract
from vecserve_server.gateway.kserve.infer import Inference
from vecserve_server.gateway.kserve.parameters import request_parameters, requested_output
from vecserve_server.gateway.kserve.trace_log import TraceLog
from vecserve_server.services.inference import InferenceService

T = TypeVar("T")
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE,
}
Request: TypeAlias = service_pb2.ModelInferRequest
SEEDS = [
    Request(
        model_name="echo",
        id="1",
        inputs=[
            {"name": "BYTES", "datatype": "BYTES", "shape": [2, 1]},
            {"name": "INT8", "datatype": "INT8", "shape": [2, 3]},
        ],
        outputs=[{"name": "OUT_INT8"}, {"name": "OUT_BYTES"}],
        raw_input_contents=[b"\x01\x00\x00\x00a\x00\x00\x00\x00", b"abcdef"],
    ),
    Request(
        model_name="echo",
        inputs=[
            {
                "name": "FP32",
                "datatype": "FP32",
                "shape": [1, 2],
                "contents": {"fp32_contents": [1, 2]},
            }
        ],
        outputs=[{"name": "OUT_FP32"}],
    ),
]

values = st.one_of(
    st.builds(lambda v: {"bool_param": v}, st.booleans()),
    st.builds(lambda v: {"int64_param": v}, st.integers(-(2**63), 2**63 - 1)),
    st.builds(lambda v: {"uint64_param": v}, st.integers(0, 2**64 - 1)),
    st.builds(lambda v: {"string_param": v}, st.text(max_size=5)),
    st.builds(lambda v: {"double_param": v}, st.floats()),
    st.just({}),
)
parameters = st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=4).map(
    lambda chosen: {k: service_pb2.InferParameter(**v) for k, v in chosen.items()}
)


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    try:
        return read(), ""
    except RequestError as refusal:
        return None, str(refusal)


@given(parameters)
def test_parameters_are_read_or_refused(
    given_: dict[str, service_pb2.InferParameter],
) -> None:
    read, problem = attempt(lambda: request_parameters(Request(parameters=given_)))
    assert problem.startswith("parameters: " if read is None else "")
    if read is None:
        return
    assert "triton_x" not in given_
    assert read.priority >= 0
    assert read.timeout_us >= 0


@given(parameters)
def test_parameters_of_outputs_are_read_or_refused_by_name(
    given_: dict[str, service_pb2.InferParameter],
) -> None:
    tensor = Request.InferRequestedOutputTensor(name="y", parameters=given_)
    read, problem = attempt(lambda: requested_output(tensor))
    assert problem.startswith("output 'y': " if read is None else "")
    if read is None:
        return
    assert read.slice is None or not read.classes
    assert (read.slice is not None) == ("shared_memory_region" in given_)


@given(st.randoms(use_true_random=False), st.sampled_from([0, 8]))
def test_a_contract_that_holds_bounds_every_tensor(choose: random.Random, batch: int) -> None:
    contract = make_contract(echo_config(batch))
    request = Request()
    try:
        request.ParseFromString(mutated(choose, SEEDS))
        rows = contract.check_inputs(request)
        wanted = contract.requested_outputs(request)
    except (RequestError, DecodeError):
        return
    assert 1 <= rows <= max(batch, 1)
    assert len({output.name for output in wanted}) == len(wanted)
    assert all(min(tensor.shape, default=0) >= 0 for tensor in request.inputs)
    assert len({tensor.name for tensor in request.inputs}) == len(request.inputs)


async def test_mutated_messages_are_answered_or_refused(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(4096))
    scope = echo_scope(asyncio.Event())
    regions = echo_regions(scope, folder=tmp_path)
    regions.register("region", "object", offset=0, size_bytes=4096)
    model = EchoModel()
    model.gate.set()
    inference = Inference(
        service=InferenceService(models=OneModel(model=model)),
        regions=regions,
        traces=TraceLog(logger=logging.getLogger("vecserve.trace")),
        scope=scope,
    )
    choose, answered, refused = random.Random(20), 0, 0
    for _ in range(COUNT):
        data = mutated(choose, SEEDS)
        request = Request()
        try:
            request.ParseFromString(data)
        except DecodeError:
            continue
        try:
            response = await inference.answer(request, ANONYMOUS)
        except RequestError:
            refused += 1
        else:
            assert len(response.outputs) == len(response.raw_output_contents)
            answered += 1
        model.requests.clear()
        model.arrived = asyncio.Queue()
    assert answered > COUNT / 50
    assert refused > COUNT / 10
    regions.unregister("")


METHODS: dict[str, Message] = {
    "ServerMetadata": service_pb2.ServerMetadataRequest(),
    "ModelReady": service_pb2.ModelReadyRequest(name="echo", version="1"),
    "ModelMetadata": service_pb2.ModelMetadataRequest(name="echo", version="1"),
    "ModelConfig": service_pb2.ModelConfigRequest(name="echo", version="1"),
    "ModelStatistics": service_pb2.ModelStatisticsRequest(name="echo", version="1"),
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(ready=True),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(
        model_name="echo",
        parameters={
            "config": {"string_param": "{}"},
            "file:1/model.onnx": {"bytes_param": b"onnx"},
        },
    ),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(
        model_name="echo", parameters={"unload_dependents": {"bool_param": True}}
    ),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(name="region"),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(
        name="region", key="/vecserve-test-nothing", offset=16, byte_size=64
    ),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(name="region"),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="region"),
    "TraceSetting": service_pb2.TraceSettingRequest(
        model_name="echo", settings={"trace_rate": {"value": ["5"]}}
    ),
    "LogSettings": service_pb2.LogSettingsRequest(
        settings={"log_verbose_level": {"uint32_param": 1}, "log_info": {"bool_param": True}}
    ),
    "ModelStreamInfer": SEEDS[0],
}


@pytest.mark.parametrize("method", METHODS)
async def test_scrambled_messages_of_every_call_are_answered_or_refused(
    echo: EchoServer, method: str
) -> None:
    choose, seed = random.Random(7), METHODS[method].SerializeToString()
    async with aio.insecure_channel(echo.target) as opened:
        channel: Any = opened
        path = f"/inference.GRPCInferenceService/{method}"
        for _ in range(max(1, COUNT // 30)):
            data = scrambled(choose, seed)
            if method == "ModelStreamInfer":
                call = channel.stream_stream(path)(iter([data]))
            else:
                call = channel.unary_unary(path)(data)
            assert await call.code() in ALLOWED, (data, await call.details())

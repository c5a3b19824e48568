"""Admission comes before anything else, in every call that asks for work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.gateway.echo_model import EchoServer

SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
HEALTH = {"ServerLive", "ServerReady", "ModelReady"}
UNARY = [method for method in SERVICE.methods if method.name != "ModelStreamInfer"]


def call(stub: Any, name: str, request: Any = None) -> Any:
    method = SERVICE.methods_by_name[name]
    made = getattr(service_pb2, method.input_type.name)()
    return getattr(stub, name)(request or made)


@pytest_asyncio.fixture
async def stub(echo: EchoServer) -> AsyncIterator[Any]:
    async with aio.insecure_channel(echo.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize("name", [m.name for m in UNARY if m.name not in HEALTH])
async def test_a_closed_door_is_told_before_a_mistake(
    echo: EchoServer, stub: Any, name: str
) -> None:
    echo.admission.close()
    with pytest.raises(aio.AioRpcError) as refusal:
        await call(stub, name)
    assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE
    assert refusal.value.details() == "the server is shutting down"
    assert not echo.control.asked


@pytest.mark.parametrize("name", sorted(HEALTH))
async def test_questions_of_health_are_answered_whatever_is_pending(
    echo: EchoServer, stub: Any, name: str
) -> None:
    with echo.admission.admit(64):
        await call(stub, name)


async def test_a_full_server_is_told_before_an_unknown_model(echo: EchoServer, stub: Any) -> None:
    asking = service_pb2.ModelInferRequest(model_name="none")
    with echo.admission.admit(64), pytest.raises(aio.AioRpcError) as refusal:
        await stub.ModelInfer(asking)
    assert "Exceeds maximum queue size" in str(refusal.value.details())
    with echo.admission.admit(64):
        [reply] = [reply async for reply in stub.ModelStreamInfer(iter([asking]))]
    assert "Exceeds maximum queue size" in reply.error_message
    assert echo.admission.pending_items == 0


async def test_the_rows_of_a_request_count_as_items(echo: EchoServer, stub: Any) -> None:
    asking = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(8)])
    asking.inputs.add(name="INT8", datatype="INT8", shape=[8, 1])
    asking.outputs.add(name="OUT_INT8")
    with echo.admission.admit(57), pytest.raises(aio.AioRpcError) as refusal:
        await stub.ModelInfer(asking)
    assert "58 items are pending and 7 more exceed" in str(refusal.value.details())
    with echo.admission.admit(56):
        await stub.ModelInfer(asking)
    assert echo.admission.pending_items == 0

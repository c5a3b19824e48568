"""An inference service with a model that returns its inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from tests.gateway.echo_model import EchoModel, EchoServer, echo_server


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[EchoServer]:
    model = EchoModel()
    model.gate.set()
    async with echo_server(model) as server:
        yield server


@pytest_asyncio.fixture
async def stub(echo: EchoServer) -> AsyncIterator[Any]:
    async with aio.insecure_channel(echo.target) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)

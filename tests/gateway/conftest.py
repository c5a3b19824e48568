"""An inference service with a model that returns its inputs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from grpc import aio
from tritonclient.grpc import service_pb2_grpc

from tests.gateway.echo_model import EchoModel, EchoServer, echo_server
from vecserve_server.observability.logging import LOGGER_NAME


@pytest.fixture(autouse=True)
def unchanged_level() -> Iterator[None]:
    """The log settings are those of the process."""
    logger = logging.getLogger(LOGGER_NAME)
    level = logger.level
    yield
    logger.setLevel(level)


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

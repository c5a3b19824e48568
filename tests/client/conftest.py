"""A fake server for each test, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.fake_server import PATIENCE_S, FakeServer, running
from vecserve_client import Client, RetryPolicy


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def target(server: FakeServer) -> Iterator[str]:
    with running(server) as address:
        yield address


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    quick = RetryPolicy(initial_backoff_s=0.001)
    with Client(target=target, deadline_s=PATIENCE_S, retry=quick) as connected:
        yield connected

"""Servers and clients for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.e2e.server_process import Launch, ServerProcess, start_server
from tests.e2e.stubs import Stubs
from vecserve_client import Client


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, serving_repository: Path
) -> Iterator[ServerProcess]:
    """One server for a module; it must still be healthy at the end, and stop with exit code 0."""
    running = start_server(tmp_path_factory.mktemp("server"), repository=serving_repository)
    yield running
    assert running.process.poll() is None, f"the server died:\n{running.log}"
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture
def launch(tmp_path: Path, serving_repository: Path) -> Iterator[Launch]:
    """Start servers on one data folder; none outlives the test, however it ends."""
    started: list[ServerProcess] = []

    def start(*, name: str = "server", **settings: object) -> ServerProcess:
        running = start_server(tmp_path, repository=serving_repository, name=name, **settings)
        started.append(running)
        return running

    yield start
    for running in started:
        running.kill()


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(target=server.target, deadline_s=30.0) as made:
        yield made


@pytest.fixture
def stubs(server: ServerProcess) -> Iterator[Stubs]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        yield Stubs(channel)

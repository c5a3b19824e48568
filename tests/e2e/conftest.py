"""Servers and clients for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.e2e.own_repository import Repository
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


@pytest.fixture
def repository(tmp_path: Path, serving_repository: Path) -> Repository:
    made = Repository(tmp_path / "models", serving_repository)
    made.root.mkdir()
    made.add("1")
    return made


@pytest.fixture
def start(tmp_path: Path, repository: Repository) -> Iterator[Callable[..., ServerProcess]]:
    started: list[ServerProcess] = []

    def start_one(*, name: str = "server", **settings: object) -> ServerProcess:
        started.append(start_server(tmp_path, repository=repository.root, name=name, **settings))
        return started[-1]

    yield start_one
    for server in started:
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log, server.log

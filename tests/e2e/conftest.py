"""Servers and clients for the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from tests.e2e.own_repository import Repository
from tests.e2e.server_process import Launch, ServerProcess, start_server
from tests.e2e.shared_server import SharedServer, empty
from tests.e2e.stubs import Stubs
from vecserve_client import Client


@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, serving_repository: Path
) -> Iterator[SharedServer]:
    folder = tmp_path_factory.mktemp("server")

    def start_one(number: int) -> ServerProcess:
        own = folder / str(number)
        own.mkdir()
        return start_server(own, repository=serving_repository)

    shared = SharedServer(start_one)
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def server(shared_server: SharedServer) -> Iterator[ServerProcess]:
    """The server of the session, without collections; the module must leave it healthy."""
    with shared_server.lent() as running:
        yield running


@pytest.fixture
def cleared(server: ServerProcess) -> Iterator[ServerProcess]:
    """The server of the session, without collections before the test and after it."""
    empty(server)
    yield server
    if server.process.poll() is None:
        empty(server)


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

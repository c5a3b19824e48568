"""SIGTERM under load: accepted calls finish, new ones are UNAVAILABLE, nothing acked is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.server_process import Launch, ServerProcess
from vecserve.v1 import embedding_pb2, embedding_pb2_grpc, index_pb2, index_pb2_grpc
from vecserve_client import Client

LOAD_THREADS = 6
PATIENCE_S = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health(channel: grpc.Channel) -> Any:
    """Ask for the state; the code of the failure where nobody answers any more."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        return stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status
    except grpc.RpcError as failure:
        return failure.code()


class Load:
    """Callers that upsert until they are refused, and keep account."""

    def __init__(self, server: ServerProcess) -> None:
        self.acknowledged: set[str] = set()
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        self.health_after: list[Any] = []
        self.started = threading.Barrier(LOAD_THREADS + 1)
        self._target = server.target
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(LOAD_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, thread: int) -> None:
        with grpc.insecure_channel(self._target) as channel:
            stub = index_pb2_grpc.IndexServiceStub(channel)
            for call in range(100_000):
                if call == 3:
                    self.started.wait(PATIENCE_S)
                ids = [f"{thread}-{call}-{row}" for row in range(8)]
                rows = [index_pb2.UpsertRow(id=i, text="some words " * 30) for i in ids]
                try:
                    reply = stub.Upsert(
                        index_pb2.UpsertRequest(collection="docs", rows=rows), timeout=PATIENCE_S
                    )
                except grpc.RpcError as failure:
                    self.refusals.append((failure.code(), failure.details() or ""))
                    self.health_after.append(health(channel))
                    return
                assert all(result.seq for result in reply.results)
                self.acknowledged.update(ids)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.mark.slow
def test_sigterm_under_load(launch: Launch) -> None:
    server = launch()
    with Client(target=server.target) as client:
        client.create_collection("docs")
    flipped: list[bool] = []
    watching = threading.Event()

    def watch_health() -> None:
        with grpc.insecure_channel(server.target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                for reply in stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S):
                    watching.set()
                    if reply.status == NOT_SERVING:
                        flipped.append(True)
            except grpc.RpcError:
                pass  # the stream ends with the server

    watcher = threading.Thread(target=watch_health)
    watcher.start()
    assert watching.wait(PATIENCE_S)
    load = Load(server)
    load.started.wait(PATIENCE_S)

    server.terminate()
    load.join()
    watcher.join(PATIENCE_S)

    assert server.exit_code() == 0, server.log
    assert len(load.refusals) == LOAD_THREADS
    # An accepted call that was lost would end with other words. A caller that the machine kept
    # waiting finds nobody to call.
    words = ("the server is shutting down", "failed to connect")
    for code, details in load.refusals:
        assert code is grpc.StatusCode.UNAVAILABLE, (details, server.log)
        assert details.startswith(words), server.log
    assert flipped, "health must flip"
    assert SERVING not in load.health_after, "health flips before the first refusal"
    assert "clean=True" in server.log

    server = launch(name="again")
    with Client(target=server.target) as client:
        recovered = {row.id for row in client.scan("docs", page_size=1000)}
    assert load.acknowledged <= recovered
    assert server.stop() == 0


@pytest.mark.slow
def test_an_idle_stream_does_not_hold_up_the_drain(launch: Launch) -> None:
    server = launch(server_drain_s=3600)
    done = threading.Event()

    def requests() -> Iterator[embedding_pb2.EmbedStreamRequest]:
        request = embedding_pb2.EmbedRequest(
            request_id="1", inputs=[embedding_pb2.EmbedInput(text="x")]
        )
        yield embedding_pb2.EmbedStreamRequest(request=request)
        done.wait(PATIENCE_S)

    with grpc.insecure_channel(server.target) as channel:
        stream = embedding_pb2_grpc.EmbeddingServiceStub(channel).EmbedStream(requests())
        assert next(stream).response.items[0].tokens == 3
        server.terminate()
        with pytest.raises(grpc.RpcError) as ended:
            next(stream)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        done.set()
    assert server.exit_code() == 0


def test_a_second_server_on_the_same_folder_refuses_to_start(
    launch: Launch, server: ServerProcess
) -> None:
    with pytest.raises(AssertionError, match=r"exit 2:\n.*in use"):
        launch(name="second", storage_data_dir=server.data)


@pytest.mark.parametrize("setting", ["server_port", "server_metrics_port"])
def test_an_occupied_port_refuses_to_start(launch: Launch, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        name = setting.replace("server_", "server.", 1)
        with pytest.raises(
            AssertionError, match=rf"(?s)exit 2:\n.*{name}: 127.0.0.1:{port} cannot be"
        ):
            launch(**{setting: port})


def test_the_ready_file_lives_as_long_as_the_server(tmp_path: Path, launch: Launch) -> None:
    server = launch()
    assert (tmp_path / "server.ready").exists()
    assert server.stop() == 0
    assert not (tmp_path / "server.ready").exists()

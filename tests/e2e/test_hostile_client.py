"""A taste of `make test-hostile`: what one client does to a small server leaves others alone."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.e2e.server_process import ServerProcess, start_server
from tests.hostile.half_sent import HalfSent
from vecserve.v1 import collection_pb2, embedding_pb2
from vecserve_client import Client, InvalidArgument

MIB = 1 << 20
PATIENCE_S = 60.0
EMBED = "/vecserve.v1.EmbeddingService/Embed"
WATCH = "/grpc.health.v1.Health/Watch"
Code = grpc.StatusCode
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, serving_repository: Path
) -> Iterator[ServerProcess]:
    """A server with narrow doors; at the end it is as healthy as any."""
    running = start_server(
        tmp_path_factory.mktemp("server"),
        repository=serving_repository,
        server_handshake_timeout_s=1,
        server_receive_timeout_s=1,
        server_max_concurrent_calls=20,
        server_max_connection_calls=15,
        server_max_connection_watches=4,
        server_max_arriving_bytes=64 * MIB,
        server_client_shared_memory="off",
    )
    yield running
    with Client(target=running.target) as client:
        assert client.embed(["still there"]).vectors.shape == (1, 384)
    assert running.stop() == 0, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[Any]:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.target, options=options) as made:
        yield made


def codes(calls: list[Any]) -> Counter[grpc.StatusCode]:
    return Counter(call.code() for call in calls)


def resident_bytes(server: ServerProcess) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


def test_small_messages_that_unpack_into_huge_ones_are_refused(
    server: ServerProcess, channel: Any
) -> None:
    message = collection_pb2.GetCollectionRequest(request_id="a" * (100 * MIB)).SerializeToString()
    before = resident_bytes(server)
    call = channel.unary_unary("/vecserve.v1.CollectionService/GetCollection")
    calls = [
        call.future(message, timeout=PATIENCE_S, compression=grpc.Compression.Gzip)
        for _ in range(3)
    ]
    assert codes(calls) == {Code.INVALID_ARGUMENT: 3}
    assert "server.max_message_bytes = 33554432" in calls[0].details()
    assert resident_bytes(server) < before + 150 * MIB


def test_millions_of_empty_fields_are_refused_unparsed(channel: Any) -> None:
    embed = channel.unary_unary(EMBED)
    call = embed.future(b"\x12\x00" * (8 * MIB), timeout=PATIENCE_S)
    assert call.code() is Code.INVALID_ARGUMENT
    assert "request: has more than 131072 fields" in call.details()


def test_a_message_that_never_ends_is_given_up(server: ServerProcess) -> None:
    connection = HalfSent(server.port)
    for _ in range(4):
        connection.begin(EMBED, 31 * MIB)
    until_s = time.monotonic() + PATIENCE_S
    while connection.ended < 4 and time.monotonic() < until_s:
        connection.send(0.1)
    connection.close()
    assert connection.ended == 4


def test_calls_without_a_message_do_not_shut_out_others(server: ServerProcess) -> None:
    connections = [HalfSent(server.port) for _ in range(2)]
    for connection in connections:
        for _ in range(30):
            connection.open(EMBED)
    try:
        with Client(target=server.target) as client:
            assert client.list_models()
            # Once the silent ones are tardy, whoever means it is let in.
            assert len(client.embed(["x"]).tokens) == 1
    finally:
        for connection in connections:
            connection.close()


def test_watches_are_bounded_and_health_checks_are_not(channel: Any) -> None:
    watch = channel.unary_stream(WATCH)
    asked = [watch(b"", timeout=PATIENCE_S) for _ in range(10)]
    first = []
    for call in asked:
        try:
            first.append(health_pb2.HealthCheckResponse.FromString(next(call)).status)
        except grpc.RpcError:
            assert call.code() is Code.RESOURCE_EXHAUSTED
            assert "server.max_connection_watches = 4" in call.details()
    assert first == [health_pb2.HealthCheckResponse.SERVING] * 4
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=PATIENCE_S)
    for call in asked:
        call.cancel()


@pytest.mark.parametrize("said", [b"", PREFACE, b"GET / HTTP/1.1\r\n\r\n"])
def test_who_does_not_speak_http2_is_disconnected(server: ServerProcess, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as silent:
        silent.sendall(said)
        try:
            while silent.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_the_client_says_what_to_do_with_a_message_that_is_too_large(channel: Any) -> None:
    embed = channel.unary_unary(EMBED)
    request = embedding_pb2.EmbedRequest(inputs=[embedding_pb2.EmbedInput(text="x" * (33 * MIB))])
    call = embed.future(request.SerializeToString(), timeout=PATIENCE_S)
    assert call.code() is Code.RESOURCE_EXHAUSTED
    assert "message larger than max" in call.details()


def test_shared_memory_can_be_turned_off(channel: Any) -> None:
    register = channel.unary_unary(
        "/inference.GRPCInferenceService/SystemSharedMemoryRegister"
    ).future(b"\x0a\x01a\x12\x01a", timeout=PATIENCE_S)
    assert register.code() is Code.UNIMPLEMENTED
    assert "server.client_shared_memory" in register.details()


def test_a_server_with_a_smaller_limit_is_obeyed_without_a_retry(
    tmp_path: Path, serving_repository: Path
) -> None:
    small = start_server(
        tmp_path,
        repository=serving_repository,
        server_max_message_bytes=MIB,
        limits_max_text_bytes=1000,
    )
    try:
        with (
            Client(target=small.target) as client,
            pytest.raises(InvalidArgument, match=r"server\.max_message_bytes"),
        ):
            client.embed(["x" * (2 * MIB)])
    finally:
        small.kill()

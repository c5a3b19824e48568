"""Connections and calls that nobody means to use."""

from __future__ import annotations

import http.client
import socket
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tests.hostile.half_sent import HalfSent
from tests.hostile.target import Target
from vecserve.v1 import embedding_pb2

WATCHES, CONNECTIONS, SCRAPES = 4200, 1100, 1000
EMBED = "/vecserve.v1.EmbeddingService/Embed"


def half_scrapes(target: Target) -> None:
    """A thousand half-sent requests to the metrics port, and requests for other pages."""
    port = target.server.metrics_port
    sockets = _connections(port, SCRAPES, b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
    for path, status in (("/metrics", 200), ("/", 404), ("/x" * 2000, 404)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", path)
        assert connection.getresponse().status == status
        connection.close()
    time.sleep(1)
    _close(sockets)


def silent(target: Target) -> None:
    """Connections that never say a word, and as many that say no more than a preface."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    sockets = _connections(target.server.port, CONNECTIONS, b"")
    sockets += _connections(target.server.port, CONNECTIONS, preface)
    time.sleep(3)
    _close(sockets)


def watches(target: Target) -> None:
    """Thousands of health watches over one connection, for services of every name."""
    with target.channel() as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        requests = [
            health_pb2.HealthCheckRequest(service=f"{number}" * (number % 3))
            for number in range(WATCHES)
        ]
        opened = [watch(request.SerializeToString(), timeout=6.0) for request in requests]
        refused = sum(_ends_at_once(call) for call in opened)
        for call in opened:
            call.cancel()
    assert refused > WATCHES - 100


def idle_streams(target: Target) -> None:
    """Streams on which nothing comes, over a few connections."""
    _open_and_leave(target, f"{EMBED}Stream", 500)


def silent_calls(target: Target) -> None:
    """Unary calls whose message never comes, more than there may be."""
    _open_and_leave(target, EMBED, 1600)


def patient_calls(target: Target) -> None:
    """Calls without a deadline for far more than can be done, until their client leaves."""
    with target.channel() as channel:
        embed = channel.unary_unary(EMBED)
        inputs = [embedding_pb2.EmbedInput(text=f"some text {number}") for number in range(100)]
        message = embedding_pb2.EmbedRequest(inputs=inputs).SerializeToString()
        opened = [embed.future(message) for _ in range(3000)]
        time.sleep(4)
        for call in opened:
            call.cancel()


def _connections(port: int, count: int, sent: bytes) -> list[socket.socket]:
    opened = []
    for _ in range(count):
        try:
            made = socket.create_connection(("127.0.0.1", port), 5)
            made.sendall(sent)
        except OSError:
            continue  # refused, which is as well
        opened.append(made)
    return opened


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _ends_at_once(call: Any) -> bool:
    try:
        next(iter(call))
    except grpc.RpcError as error:
        return call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and bool(error)
    return False


def _open_and_leave(target: Target, method: str, calls: int) -> None:
    connections = [HalfSent(target.server.port) for _ in range(3)]
    for connection in connections:
        for _ in range(calls):
            connection.open(method)
    for connection in connections:
        connection.send(1.0)
        connection.close()

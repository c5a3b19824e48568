"""Replies that nobody reads."""

from __future__ import annotations

import select
import socket
import struct
import time

from tests.hostile.half_sent import (
    ACK,
    DATA,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW,
    PREFACE,
    SETTINGS,
    frame,
    headers,
)
from tests.hostile.target import Target
from vecserve.v1 import embedding_pb2

CONNECTIONS, CALLS, TEXTS = 4, 150, 1024
EMBED = "/vecserve.v1.EmbeddingService/Embed"
END_STREAM = 1
STAY_S = 5.0


def unread(target: Target) -> None:
    """Whole calls with replies of 1.5 MB over connections that let the server send nothing."""
    inputs = [embedding_pb2.EmbedInput(text="word")] * TEXTS
    message = embedding_pb2.EmbedRequest(inputs=inputs).SerializeToString()
    sockets = [_deaf(target.server.port) for _ in range(CONNECTIONS)]
    prefixed = struct.pack(">BI", 0, len(message)) + message
    for number in range(CALLS):
        stream = 2 * number + 1
        call = frame(HEADERS, END_HEADERS, stream, headers(EMBED))
        call += frame(DATA, END_STREAM, stream, prefixed)
        for connection in sockets:
            connection.sendall(call)
            _take(connection)
    time.sleep(STAY_S)
    for connection in sockets:
        connection.close()


def _deaf(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    none = struct.pack(">HI", INITIAL_WINDOW, 0)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, none) + frame(SETTINGS, ACK, 0, b""))
    return connection


def _take(connection: socket.socket) -> None:
    """Read what came beside replies, so that the server may go on."""
    while select.select([connection], [], [], 0)[0] and connection.recv(1 << 16):
        pass

"""A gRPC client that begins messages and does not end them.

One HTTP/2 connection (RFC 9113), as many calls on it as wanted; each sends all of a large message
but its last byte, as fast as the server's windows let it.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import defaultdict

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ACK, END_HEADERS = 1, 4
FIRST_WINDOW, FRAME_BYTES, HEADER_BYTES = 65_535, 16_384, 9
INITIAL_WINDOW = 4
PART = b"a" * FRAME_BYTES


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def headers(method: str) -> bytes:
    # POST and http are entries of HPACK's static table; the rest is spelt out.
    fields = (
        (":path", method),
        (":authority", "x"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"\x83\x86" + b"".join(
        b"\x00" + bytes((len(n),)) + n.encode() + bytes((len(v),)) + v.encode() for n, v in fields
    )


class HalfSent:
    """The connection and what each call has still to send."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        self._received = b""
        self._window = FIRST_WINDOW
        self._first_window = FIRST_WINDOW
        self._windows: dict[int, int] = defaultdict(int)
        self._left: dict[int, int] = {}
        self._next = 1
        self.ended = 0

    def close(self) -> None:
        self._socket.close()

    def open(self, method: str) -> None:
        """Open a call without a message."""
        stream, self._next = self._next, self._next + 2
        self._socket.sendall(frame(HEADERS, END_HEADERS, stream, headers(method)))
        self._left[stream] = 0

    def begin(self, method: str, size_bytes: int) -> None:
        """Open a call and say how large its message is."""
        stream, self._next = self._next, self._next + 2
        prefix = struct.pack(">BI", 0, size_bytes)
        self._socket.sendall(
            frame(HEADERS, END_HEADERS, stream, headers(method)) + frame(DATA, 0, stream, prefix)
        )
        self._window -= len(prefix)
        self._windows[stream] -= len(prefix)
        self._left[stream] = size_bytes - 1

    def send(self, seconds: float) -> None:
        """Send for so long."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            if not self._send_some() or select.select([self._socket], [], [], 0)[0]:
                self._receive(0.05)

    def _send_some(self) -> bool:
        sent = False
        for stream, left in list(self._left.items()):
            room = min(left, FRAME_BYTES, self._window, self._first_window + self._windows[stream])
            if room <= 0:
                continue
            self._socket.sendall(frame(DATA, 0, stream, PART[:room]))
            self._window -= room
            self._windows[stream] -= room
            self._left[stream] -= room
            sent = True
        return sent

    def _receive(self, wait_s: float) -> None:
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        read, at = self._received + data, 0
        while len(read) - at >= HEADER_BYTES:
            end = at + HEADER_BYTES + int.from_bytes(read[at : at + 3], "big")
            if len(read) < end:
                break
            stream = int.from_bytes(read[at + 5 : at + 9], "big")
            self._take(read[at + 3], read[at + 4], stream, read[at + HEADER_BYTES : end])
            at = end
        self._received = read[at:]

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == WINDOW:
            if stream:
                self._windows[stream] += int.from_bytes(body, "big")
            else:
                self._window += int.from_bytes(body, "big")
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(body), 6):
                name, value = struct.unpack_from(">HI", body, at)
                if name == INITIAL_WINDOW:
                    self._first_window = value
            self._socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._socket.sendall(frame(PING, ACK, 0, body))
        elif (kind == HEADERS and flags & 1) or kind == RESET:
            self.ended += self._left.pop(stream, None) is not None

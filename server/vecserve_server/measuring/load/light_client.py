"""A gRPC client that costs its machine next to nothing: one method, messages known beforehand.

Owns one HTTP/2 connection (RFC 9113) and the calls on it. A general client takes more CPU time for
a call than a server needs to refuse it, and on one machine it is the client that such a load would
measure. This one keeps its frames ready and reads no more of an answer than its status. Must not
know what the messages mean.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNKNOWN = 0, 4, 8, 2
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_BYTES: Final = 9
_CANCEL: Final = 8
_MOST_WINDOW: Final = (1 << 31) - 1
_FIRST_WINDOW: Final = (1 << 16) - 1
_TABLE_SIZE, _STREAM_WINDOW = 1, 4
_READ_BYTES: Final = 1 << 18
_STATUS: Final = b"\x0bgrpc-status"
"""With its length: names that begin like it are others."""
_PREFIX: Final = struct.Struct(">BI")
"""Before each message: whether it is compressed, and its length."""
_NEVER_S: Final = float("inf")
_LOOK_S: Final = 0.1
"""How often the end of a load is looked for where nothing comes."""
_CONNECT_S: Final = 10.0
_STRIDE: Final = 7919
"""Prime, so that neighbours among the messages do not follow each other."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call; times are those of `time.perf_counter`, the code is gRPC's number."""

    due_s: float
    ended_s: float
    code: int
    reply: bytes = b""
    """The message, where replies are kept."""

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return (self.ended_s - self.due_s) * 1000


class LightClient:
    """Call one unary method over one connection. One thread only."""

    def __init__(self, *, target: str, method: str, messages: Sequence[bytes]) -> None:
        """Connect; calls send the messages in turn. Raises OSError."""
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._target, self._method = target, method
        self._frames = [_request_frame(message) for message in messages]
        self._number = 0
        self._stream = 1
        self._window = _FIRST_WINDOW
        """Bytes of messages that the server is ready to take."""
        self._read = b""
        self._out: list[bytes] = []
        self._open: dict[int, float] = {}
        """When each unanswered call was due, by stream."""
        self._replies: dict[int, bytes] = {}
        self._ended: list[Call] = []
        self._keep_replies = False
        self._shake_hands()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def closed(
        self, clients: int, seconds: float, timeout_s: float, *, keep_replies: bool = False
    ) -> list[Call]:
        """Keep so many calls in flight, the next one due when one has ended."""
        stop_s = time.perf_counter() + seconds

        def due() -> Iterator[float]:
            while True:
                now_s = time.perf_counter()
                yield now_s if now_s < stop_s else _NEVER_S

        return self._run(due(), clients, stop_s, timeout_s, keep_replies=keep_replies)

    def open(self, due_s: Sequence[float], timeout_s: float) -> list[Call]:
        """Call at each of these times, whatever became of the calls before."""
        return self._run(iter(due_s), len(due_s), due_s[-1], timeout_s, keep_replies=False)

    def _run(
        self,
        due: Iterator[float],
        most_open: int,
        stop_s: float,
        timeout_s: float,
        *,
        keep_replies: bool,
    ) -> list[Call]:
        self._keep_replies, self._ended = keep_replies, []
        headers = _request_headers(self._target, self._method, timeout_s)
        expiries: deque[tuple[float, int]] = deque()
        next_s = 0.0
        while (now_s := time.perf_counter()) < stop_s or self._open or next_s < _NEVER_S:
            while expiries and expiries[0][0] <= now_s:
                self._give_up(expiries.popleft()[1], now_s)
            wake_s = expiries[0][0] if expiries else _NEVER_S
            while len(self._open) < most_open and self._window > 0:
                next_s = next_s or next(due, _NEVER_S)
                if next_s > now_s:
                    wake_s = min(wake_s, next_s)
                    break
                expiries.append((next_s + timeout_s, self._send(headers, next_s)))
                next_s = 0.0
            self._flush()
            self._receive(max(0.0, min(wake_s, now_s + _LOOK_S) - time.perf_counter()))
        return self._ended

    def _send(self, headers: bytes, due_s: float) -> int:
        stream, self._stream = self._stream, self._stream + 2
        length, body = self._frames[self._number * _STRIDE % len(self._frames)]
        self._number += 1
        number = stream.to_bytes(4, "big")
        self._out += (headers[:5], number, headers[5:], length, number, body)
        self._window -= len(body)
        self._open[stream] = due_s
        return stream

    def _give_up(self, stream: int, now_s: float) -> None:
        due_s = self._open.pop(stream, None)
        if due_s is not None:
            self._out.append(_frame(_RESET, 0, stream, _CANCEL.to_bytes(4, "big")))
            self._ended.append(Call(due_s, now_s, DEADLINE_EXCEEDED))

    def _flush(self) -> None:
        if self._out:
            self._socket.sendall(b"".join(self._out))
            self._out.clear()

    def _receive(self, wait_s: float) -> None:
        """Wait for answers, and take in all that has come."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        received = self._socket.recv(_READ_BYTES)
        if not received:
            raise ConnectionError("the server closed the connection")
        now_s = time.perf_counter()
        read, at = self._read + received, 0
        while len(read) - at >= _HEADER_BYTES:
            end = at + _HEADER_BYTES + int.from_bytes(read[at : at + 3], "big")
            if len(read) < end:
                break
            stream = int.from_bytes(read[at + 5 : at + 9], "big")
            self._take(read[at + 3], read[at + 4], stream, read[at + 9 : end], now_s)
            at = end
        self._read = read[at:]

    def _take(self, kind: int, flags: int, stream: int, body: bytes, now_s: float) -> None:
        if kind == _HEADERS and flags & _END_STREAM:
            self._end(stream, _status(body), now_s)
        elif kind == _DATA:
            if self._keep_replies:
                self._replies[stream] = self._replies.get(stream, b"") + body
        elif kind == _RESET:
            self._end(stream, UNKNOWN, now_s)
        elif kind == _WINDOW and not stream:
            self._window += int.from_bytes(body, "big")
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._out.append(_frame(kind, _ACK, 0, body if kind == _PING else b""))
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server ends the connection: {body[8:]!r}")

    def _end(self, stream: int, code: int, now_s: float) -> None:
        due_s = self._open.pop(stream, None)
        if due_s is not None:
            message = self._replies.pop(stream, b"")[_PREFIX.size :]
            self._ended.append(Call(due_s, now_s, code, message))

    def _shake_hands(self) -> None:
        """Tell that all answers may come at once and that headers are to be spelt out."""
        settings = struct.pack(">HIHI", _TABLE_SIZE, 0, _STREAM_WINDOW, _MOST_WINDOW)
        more = (_MOST_WINDOW - _FIRST_WINDOW).to_bytes(4, "big")
        self._out += (_PREFACE, _frame(_SETTINGS, 0, 0, settings), _frame(_WINDOW, 0, 0, more))
        self._flush()
        self._receive(_CONNECT_S)
        self._flush()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _request_frame(message: bytes) -> tuple[bytes, bytes]:
    """Return a message's frame as what stands before the number of the stream, and after it."""
    body = _PREFIX.pack(0, len(message)) + message
    return len(body).to_bytes(3, "big") + bytes((_DATA, _END_STREAM)), body


def _request_headers(target: str, method: str, timeout_s: float) -> bytes:
    """Return the frame of the headers but for the number of the stream, which follows 5 bytes."""
    block = b"\x83\x86" + b"".join(  # POST and http are entries of HPACK's static table
        b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in (
            (":path", method),
            (":authority", target),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", f"{max(1, round(timeout_s * 1000))}m"),
        )
    )
    return len(block).to_bytes(3, "big") + bytes((_HEADERS, _END_HEADERS)) + block


def _status(trailers: bytes) -> int:
    """Read gRPC's status: the server was told to keep no table, so that it is spelt out."""
    at = trailers.rfind(_STATUS)
    if at < 0:
        return UNKNOWN
    at += len(_STATUS)
    return int(trailers[at + 1 : at + 1 + trailers[at]])

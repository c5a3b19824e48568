"""Pipelined calls over one stream, for the synchronous client.

Owns the open stream and the queues between the caller and gRPC's threads. Must not know what
messages mean (`exchange` does).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from vecserve_client.channel import closed_as_cancelled, serialise
from vecserve_client.errors import VecserveError, from_rpc
from vecserve_client.exchange import Answered, Exchange, Numbered, Refused

CANCEL_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 5.0
Q = TypeVar("Q", bound=Numbered)
R = TypeVar("R")


def pipeline(
    channel: grpc.Channel, exchange: Exchange[Q, R], requests: Iterator[Q]
) -> Iterator[Answered[Q, R]]:
    """Send requests and yield each with its reply, in the order of the replies.

    Requests are drawn from the iterator, in the caller's thread, only while the window has room.
    """
    link = _Link(channel, exchange)
    try:
        while True:
            while exchange.has_room and (request := next(requests, None)) is not None:
                link.send(exchange.add(request))
            if exchange.is_idle:
                link.finish()
                return
            exchange.attempts.restart()
            yield _await_answer(link, exchange)
    finally:
        link.close()


def _await_answer(link: _Link, exchange: Exchange[Q, R]) -> Answered[Q, R]:
    while True:
        try:
            reply = link.receive(timeout_s=exchange.attempts.remaining_s())
        except VecserveError as lost:
            time.sleep(exchange.delay_after_loss(lost))
            link.reopen(exchange.resend())
            continue
        outcome = exchange.read(reply)
        if isinstance(outcome, Refused):
            time.sleep(outcome.delay_s)
            link.send(outcome.message)
        elif outcome is not None:
            return outcome


class _Link:
    """An open stream. `receive` waits for a bounded time, which gRPC's own iterator cannot."""

    def __init__(self, channel: grpc.Channel, exchange: Exchange[Any, Any]) -> None:
        self._exchange = exchange
        self._open_stream: grpc.StreamStreamMultiCallable[bytes, Any] = channel.stream_stream(
            exchange.method.path, response_deserializer=exchange.method.reply_type.FromString
        )
        self._open()

    def send(self, message: Message) -> None:
        """Hand a message to gRPC; never waits. Raises InvalidArgument if it is too large."""
        self._outbox.put(serialise(message))

    def receive(self, *, timeout_s: float) -> Message:
        """Wait for a reply; raise the stream's failure, or DeadlineExceeded."""
        try:
            received = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise self._exchange.attempts.timed_out(self._exchange.method.name) from None
        if isinstance(received, VecserveError):
            raise received
        return received

    def reopen(self, messages: list[Message]) -> None:
        """Replace a lost stream by a new one that begins with these messages."""
        self.close()
        self._open()
        for message in messages:
            self.send(message)

    def finish(self) -> None:
        """Say that nothing more comes, and let the server end the stream: cancelled, it failed."""
        self._outbox.put(None)
        self._reader.join(END_TIMEOUT_S)

    def close(self) -> None:
        """Give the stream up; replies under way are dropped."""
        self._outbox.put(None)
        self._replies.cancel()
        self._reader.join(CANCEL_TIMEOUT_S)

    def _open(self) -> None:
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[Message | VecserveError] = queue.SimpleQueue()
        with closed_as_cancelled(self._exchange.method.name):
            self._replies = self._open_stream(iter(self._outbox.get, None))
        self._reader = threading.Thread(target=self._read, name="vecserve-stream", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for reply in self._replies:
                self._inbox.put(reply)
        except grpc.RpcError as error:
            self._inbox.put(from_rpc(error, method=self._exchange.method.name))
        else:
            self._inbox.put(self._exchange.ended())

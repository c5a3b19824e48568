"""Pipelined calls over one stream, for the asynchronous client.

Owns the open stream, its reader task and the queues between. Must not know what messages mean
(`exchange` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from vecserve_client.channel import closed_as_cancelled, serialise
from vecserve_client.errors import VecserveError, from_rpc
from vecserve_client.exchange import Answered, Exchange, Numbered, Refused

END_TIMEOUT_S: Final = 5.0
Q = TypeVar("Q", bound=Numbered)
R = TypeVar("R")

# What grpc.aio puts in place of a stream's status when a write is under way as it ends.
_LOST_DURING_WRITE: Final = "Internal error from Core"


async def pipeline(
    channel: grpc.aio.Channel, exchange: Exchange[Q, R], requests: AsyncIterator[Q]
) -> AsyncIterator[Answered[Q, R]]:
    """Send requests and yield each with its reply, in the order of the replies.

    Requests are drawn from the iterator only while the window has room.
    """
    link = _Link(channel, exchange)
    try:
        while True:
            while exchange.has_room and (request := await anext(requests, None)) is not None:
                link.send(exchange.add(request))
            if exchange.is_idle:
                await link.finish()
                return
            exchange.attempts.restart()
            yield await _await_answer(link, exchange)
    finally:
        await link.close()


async def _await_answer(link: _Link, exchange: Exchange[Q, R]) -> Answered[Q, R]:
    while True:
        try:
            reply = await link.receive(timeout_s=exchange.attempts.remaining_s())
        except VecserveError as lost:
            await asyncio.sleep(exchange.delay_after_loss(lost))
            await link.reopen(exchange.resend())
            continue
        outcome = exchange.read(reply)
        if isinstance(outcome, Refused):
            await asyncio.sleep(outcome.delay_s)
            link.send(outcome.message)
        elif outcome is not None:
            return outcome


class _Link:
    """An open stream. Reading never waits for writing, so that neither side can block the other."""

    def __init__(self, channel: grpc.aio.Channel, exchange: Exchange[Any, Any]) -> None:
        self._exchange = exchange
        self._open_stream: grpc.aio.StreamStreamMultiCallable[bytes, Any] = channel.stream_stream(
            exchange.method.path, response_deserializer=exchange.method.reply_type.FromString
        )
        self._open()

    def send(self, message: Message) -> None:
        """Hand a message to gRPC; never waits. Raises InvalidArgument if it is too large."""
        self._outbox.put_nowait(serialise(message))

    async def receive(self, *, timeout_s: float) -> Message:
        """Wait for a reply; raise the stream's failure, or DeadlineExceeded."""
        try:
            received = await asyncio.wait_for(self._inbox.get(), timeout_s)
        except TimeoutError:
            raise self._exchange.attempts.timed_out(self._exchange.method.name) from None
        if isinstance(received, VecserveError):
            raise received
        return received

    async def reopen(self, messages: list[Message]) -> None:
        """Replace a lost stream by a new one that begins with these messages."""
        await self.close()
        self._open()
        for message in messages:
            self.send(message)

    async def finish(self) -> None:
        """Say that nothing more comes, and let the server end the stream: cancelled, it failed."""
        self._outbox.put_nowait(None)
        await asyncio.wait([self._reader], timeout=END_TIMEOUT_S)

    async def close(self) -> None:
        """Give the stream up; replies under way are dropped."""
        self._is_open = False
        self._outbox.put_nowait(None)
        self._replies.cancel()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    def _open(self) -> None:
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[Message | VecserveError] = asyncio.Queue()
        self._is_open = True
        with closed_as_cancelled(self._exchange.method.name):
            self._replies = self._open_stream(self._requests())
        self._reader = asyncio.create_task(self._read(), name="vecserve-stream")

    async def _requests(self) -> AsyncIterator[bytes]:
        while (message := await self._outbox.get()) is not None:
            yield message

    async def _read(self) -> None:
        try:
            async for reply in self._replies:
                self._inbox.put_nowait(reply)
        except grpc.aio.AioRpcError as error:
            self._inbox.put_nowait(self._failure(error))
        except asyncio.CancelledError:
            if not self._is_open:
                raise
            self._inbox.put_nowait(self._exchange.ended())  # a write found the call finished
        else:
            self._inbox.put_nowait(self._exchange.ended())

    def _failure(self, error: grpc.aio.AioRpcError) -> VecserveError:
        if error.details() == _LOST_DURING_WRITE:
            return self._exchange.ended()
        return from_rpc(error, method=self._exchange.method.name)

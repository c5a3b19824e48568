"""Answering a stream of requests in their order, several at a time.

Owns the window of one bidirectional stream. Must not know what the messages are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from vecserve_server.errors import Draining

Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def answer_in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Reply]],
    *,
    window: int,
    closing: asyncio.Event,
) -> AsyncGenerator[Reply, None]:
    """Yield the replies in the order of the requests, at most `window` of which are unanswered.

    A reply counts as answered once the client's flow control has taken it. When `closing` is set
    no more is read, what was read is answered, and the stream ends with Draining. An exception of
    `answer` ends the stream in its turn.
    """
    slots = asyncio.Semaphore(window)
    answers: asyncio.Queue[asyncio.Task[Reply] | None] = asyncio.Queue()
    answering: set[asyncio.Task[Reply]] = set()

    async def run(request: Request) -> Reply:
        return await answer(request)

    async def read() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.create_task(run(request), name="stream-answer")
            answering.add(task)
            answers.put_nowait(task)

    reading = asyncio.create_task(read(), name="stream-read")
    reading.add_done_callback(lambda _: answers.put_nowait(None))
    watching = asyncio.create_task(closing.wait(), name="stream-closing")
    watching.add_done_callback(lambda _: reading.cancel())
    try:
        while (task := await answers.get()) is not None:
            yield await task
            answering.discard(task)
            slots.release()
        if closing.is_set():
            raise Draining("the server is shutting down")
        reading.result()
    finally:
        leftovers = [reading, watching, *answering]
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)

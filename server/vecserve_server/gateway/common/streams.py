"""Answering a stream of requests, several at a time.

Owns the window of one bidirectional stream. Must not know what the messages are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

from vecserve_server.errors import Draining

Request = TypeVar("Request")
Reply = TypeVar("Reply")


async def answer_stream(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Reply]],
    *,
    window: int,
    closing: asyncio.Event,
    in_order: bool = False,
) -> AsyncGenerator[Reply, None]:
    """Yield replies as they come, while at most `window` requests are unanswered.

    With `in_order` a reply, though not its work, waits for those of the requests before it. A reply
    counts as answered once the client's flow control has taken it. When `closing` is set no more
    is read, what was read is answered, and the stream ends with Draining. An exception of `answer`
    ends the stream.
    """
    slots = asyncio.Semaphore(window)
    due: asyncio.Queue[asyncio.Task[Reply] | asyncio.Task[None]] = asyncio.Queue()
    answering: set[asyncio.Task[Reply]] = set()

    async def run(request: Request) -> Reply:
        return await answer(request)

    async def read() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.create_task(run(request), name="stream-answer")
            answering.add(task)
            if in_order:
                due.put_nowait(task)
            else:
                task.add_done_callback(due.put_nowait)

    reading = asyncio.create_task(read(), name="stream-read")
    reading.add_done_callback(due.put_nowait)
    watching = asyncio.create_task(closing.wait(), name="stream-closing")
    watching.add_done_callback(lambda _: reading.cancel())
    try:
        while answering or not reading.done():
            task = await due.get()
            if task in answering:
                reply = await task
                answering.discard(task)
                yield reply  # type: ignore[misc]
                slots.release()
        if closing.is_set():
            raise Draining("the server is shutting down")
        reading.result()
    finally:
        leftovers = [reading, watching, *answering]
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)

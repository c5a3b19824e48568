"""The window of a bidirectional stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from vecserve_server.errors import Draining
from vecserve_server.gateway.common.streams import answer_stream

PATIENCE_S = 60.0


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_every_request_is_answered_once() -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    replies = [
        reply
        async for reply in answer_stream(numbers(100), double, window=7, closing=asyncio.Event())
    ]
    assert sorted(replies) == [number * 2 for number in range(100)]


async def test_a_slow_request_does_not_hold_up_the_others() -> None:
    release = asyncio.Event()

    async def answer(number: int) -> int:
        if number == 0:
            await release.wait()
        return number

    stream = answer_stream(numbers(3), answer, window=4, closing=asyncio.Event())
    async with asyncio.timeout(PATIENCE_S):
        assert {await anext(stream), await anext(stream)} == {1, 2}
        release.set()
        assert await anext(stream) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_no_more_than_the_window_is_taken_in() -> None:
    taken: list[int] = []
    hold = asyncio.Event()

    async def answer(number: int) -> int:
        taken.append(number)
        await hold.wait()
        return number

    stream = answer_stream(numbers(50), answer, window=5, closing=asyncio.Event())
    first = asyncio.ensure_future(anext(stream))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(taken) == 5
    hold.set()
    await first
    await stream.aclose()


async def test_closing_answers_what_was_read_and_ends_the_stream() -> None:
    closing, hold = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async def answer(number: int) -> int:
        await hold.wait()
        return number

    stream = answer_stream(endless(), answer, window=4, closing=closing)
    async with asyncio.timeout(PATIENCE_S):
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        closing.set()
        await asyncio.sleep(0)
        hold.set()
        assert await first == 1
        with pytest.raises(Draining):
            await anext(stream)


async def test_a_failing_answer_ends_the_stream_and_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()

    async def answer(number: int) -> int:
        raise RuntimeError(f"no {number}")

    with pytest.raises(RuntimeError):
        async for _ in answer_stream(numbers(9), answer, window=3, closing=asyncio.Event()):
            pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_failing_request_iterator_ends_the_stream() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("bad message")

    async def answer(number: int) -> int:
        return number

    with pytest.raises(ValueError, match="bad message"):
        async for _ in answer_stream(broken(), answer, window=3, closing=asyncio.Event()):
            pass

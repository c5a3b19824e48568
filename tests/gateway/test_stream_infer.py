"""ModelStreamInfer: order, failures, flags, the window, and the ways in which a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from tritonclient.grpc import service_pb2

from tests.gateway.echo_model import STREAM_WINDOW, EchoServer
from vecserve_server.errors import Draining
from vecserve_server.gateway.common.streams import answer_stream

PATIENCE_S = 60.0
# More than HTTP/2 sends to somebody who does not read.
BIG = 12 << 20
FLAG = "triton_enable_empty_final_response"


def request(number: int, **changes: Any) -> service_pb2.ModelInferRequest:
    fields = {
        "model_name": "echo",
        "id": str(number),
        "inputs": [{"name": "INT32", "datatype": "INT32", "shape": [1, 1]}],
        "outputs": [{"name": "OUT_INT32"}],
        "raw_input_contents": [number.to_bytes(4, "little")],
    }
    return service_pb2.ModelInferRequest(**fields | changes)


async def test_answers_come_in_order_and_failures_do_not_end_the_stream(stub: Any) -> None:
    requests = [request(n, model_name="none" if n % 3 == 1 else "echo") for n in range(20)]
    replies = [reply async for reply in stub.ModelStreamInfer(iter(requests))]
    assert [reply.infer_response.id for reply in replies] == [str(n) for n in range(20)]
    for number, reply in enumerate(replies):
        if number % 3 == 1:
            assert "'none' is not loaded" in reply.error_message
        else:
            assert reply.error_message == ""
            assert list(reply.infer_response.raw_output_contents) == [number.to_bytes(4, "little")]


async def test_the_first_failure_ends_the_stream_where_the_client_asks_for_it(stub: Any) -> None:
    requests = [request(0), request(1, model_name="none"), request(2)]
    call = stub.ModelStreamInfer(iter(requests), metadata=(("triton_grpc_error", "true"),))
    assert (await call.read()).infer_response.id == "0"
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


async def test_every_response_is_marked_as_the_final_one_asked_or_not(stub: Any) -> None:
    flags = [None, False, True, None]
    requests = [request(n) for n in range(4)]
    requests[3].model_name = "none"
    for asking, flag in zip(requests, flags, strict=True):
        if flag is not None:
            asking.parameters[FLAG].bool_param = flag
    replies = [reply async for reply in stub.ModelStreamInfer(iter(requests))]
    assert replies[3].error_message
    marks = [dict(reply.infer_response.parameters) for reply in replies]
    assert [sorted(mark) for mark in marks] == [["triton_final_response"]] * 4
    assert all(mark["triton_final_response"].bool_param for mark in marks)


async def test_no_more_than_the_window_is_taken_in(echo: EchoServer, stub: Any) -> None:
    echo.model.gate.clear()
    call = stub.ModelStreamInfer(iter([request(n) for n in range(STREAM_WINDOW * 4)]))
    first = asyncio.ensure_future(call.read())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(STREAM_WINDOW):
            await echo.model.arrived.get()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(echo.model.requests) == STREAM_WINDOW
    echo.model.gate.set()
    await first
    replies = [await call.read() for _ in range(STREAM_WINDOW * 4 - 1)]
    assert [reply.infer_response.id for reply in replies] == [str(n) for n in range(1, 16)]


async def test_a_client_that_leaves_cancels_what_it_asked_for(echo: EchoServer, stub: Any) -> None:
    echo.model.gate.clear()
    call = stub.ModelStreamInfer(iter([request(n) for n in range(3)]))
    reading = asyncio.ensure_future(call.read())
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            await echo.model.arrived.get()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        for _ in range(3):
            await echo.model.left.get()


async def test_a_client_that_does_not_read_and_leaves_cancels_what_it_asked_for(
    echo: EchoServer, stub: Any
) -> None:
    big = request(
        0,
        inputs=[{"name": "INT8", "datatype": "INT8", "shape": [1, BIG]}],
        outputs=[{"name": "OUT_INT8"}],
        raw_input_contents=[bytes(BIG)],
    )
    call = stub.ModelStreamInfer()
    async with asyncio.timeout(PATIENCE_S):
        await call.write(big)
        await echo.model.arrived.get()
        echo.model.gate.clear()
        for number in range(1, STREAM_WINDOW):
            await call.write(request(number))
            await echo.model.arrived.get()
        call.cancel()
        for _ in range(1, STREAM_WINDOW):
            await echo.model.left.get()


async def test_a_closing_server_answers_what_it_read_and_says_why_it_ends(
    echo: EchoServer, stub: Any
) -> None:
    call = stub.ModelStreamInfer()
    await call.write(request(1))
    assert (await call.read()).infer_response.id == "1"
    echo.closing.set()
    with pytest.raises(aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_slow_answer_holds_back_the_later_ones_but_not_their_work() -> None:
    release, others, done = asyncio.Event(), asyncio.Event(), []

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def answer(number: int) -> int:
        if number == 0:
            await release.wait()
        done.append(number)
        if done == [1, 2]:
            others.set()
        return number

    stream = answer_stream(numbers(), answer, window=4, closing=asyncio.Event(), in_order=True)
    async with asyncio.timeout(PATIENCE_S):
        first = asyncio.ensure_future(anext(stream))
        await others.wait()
        assert not first.done()
        release.set()
        assert [await first, await anext(stream), await anext(stream)] == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize("end", ["close", "failure", "closing"])
async def test_a_stream_leaves_no_task_behind(end: str) -> None:
    before, closing = asyncio.all_tasks(), asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0)

    async def answer(number: int) -> int:
        if end == "failure" and number == 2:
            raise ValueError("no more")
        return number

    stream = answer_stream(endless(), answer, window=4, closing=closing, in_order=True)
    async with asyncio.timeout(PATIENCE_S):
        assert [await anext(stream), await anext(stream)] == [0, 1]
        if end == "close":
            await stream.aclose()
        elif end == "failure":
            with pytest.raises(ValueError, match="no more"):
                await anext(stream)
        else:
            closing.set()
            with pytest.raises(Draining):
                [number async for number in stream]
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before

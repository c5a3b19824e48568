"""Who is let in before a message is read, and what becomes of messages that are slow to come."""

from __future__ import annotations

import asyncio
import gc
import gzip
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.gateway.echo_model import EchoModel, echo_doors, echo_scope, echo_server
from vecserve_server.errors import DeadlineExceeded, Overloaded
from vecserve_server.gateway.common.arrivals import Arrivals
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.process import resident_bytes

PATIENCE_S = 60.0
MIB = 1 << 20
Code = grpc.StatusCode
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
REQUEST = service_pb2.ModelInferRequest(
    model_name="echo",
    inputs=[{"name": "INT8", "datatype": "INT8", "shape": [1, 4]}],
    outputs=[{"name": "OUT_INT8"}],
    raw_input_contents=[b"abcd"],
).SerializeToString()


async def quiet() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(PATIENCE_S):
        return await call.code(), await call.details() or ""


def connected(echo: Any) -> Any:
    """A connection of its own, to call methods by name."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return aio.insecure_channel(echo.target, options=options)


class Slow:
    """A context whose message never comes."""

    def __init__(self) -> None:
        self.reading = asyncio.Event()

    async def read(self) -> bytes:
        self.reading.set()
        await asyncio.Event().wait()
        return b""


class Machine:
    """Arrivals on a clock and a memory that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.resident_bytes = 100
        self.arrivals = Arrivals(
            max_bytes=1000,
            timeout_s=60.0,
            resident_bytes=lambda: self.resident_bytes,
            clock_s=lambda: self.now_s,
            metrics=make_metrics(),
        )

    async def wait(self, *, is_stream: bool = False) -> asyncio.Task[Any]:
        slow: Any = Slow()
        read = self.arrivals.next_message if is_stream else self.arrivals.message
        task = asyncio.ensure_future(read(slow))
        await slow.reading.wait()
        return task

    def look(self, *, after_s: float, grown_bytes: int = 0) -> None:
        self.now_s += after_s
        self.resident_bytes += grown_bytes
        self.arrivals.look()


async def test_messages_that_are_slow_are_refused_together_where_they_take_too_much() -> None:
    machine = Machine()
    machine.look(after_s=0)
    slow = [await machine.wait(), await machine.wait(is_stream=True)]
    machine.look(after_s=1, grown_bytes=1000)
    fresh = await machine.wait()
    machine.look(after_s=0.01, grown_bytes=1)
    for task in slow:
        with pytest.raises(Overloaded, match=r"server\.max_arriving_bytes = 1000"):
            await task
    assert not fresh.done()
    # What the process takes now is the new measure.
    machine.look(after_s=0.01)
    machine.look(after_s=1, grown_bytes=1000)
    await asyncio.sleep(0)
    assert not fresh.done()
    fresh.cancel()


async def test_a_unary_message_has_its_time_and_a_stream_any() -> None:
    machine = Machine()
    unary, stream = await machine.wait(), await machine.wait(is_stream=True)
    machine.look(after_s=59.9)
    machine.look(after_s=0.1)
    with pytest.raises(DeadlineExceeded, match=r"server\.receive_timeout_s = 60"):
        await unary
    assert not stream.done()
    stream.cancel()


async def test_the_tardiest_makes_room() -> None:
    machine = Machine()
    assert not machine.arrivals.make_room()
    stream, first = await machine.wait(is_stream=True), await machine.wait()
    machine.now_s = 0.4
    second = await machine.wait()
    assert not machine.arrivals.make_room()
    machine.now_s = 0.5
    assert machine.arrivals.make_room()
    assert not machine.arrivals.make_room()
    with pytest.raises(Overloaded, match="no message came"):
        await first
    for task in (stream, second):
        assert not task.done()
        task.cancel()


async def test_who_leaves_while_it_waits_is_cancelled() -> None:
    machine = Machine()
    task = await machine.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    machine.look(after_s=100)


async def test_calls_are_bounded_for_all_and_for_a_connection_but_health_is_not() -> None:
    model = EchoModel()
    bounds: dict[str, Any] = {"max_concurrent_calls": 3, "max_connection_calls": 2}
    async with echo_server(model, **bounds) as echo, AsyncExitStack() as stack:
        channels: list[Any] = [await stack.enter_async_context(connected(echo)) for _ in range(2)]
        first, second = (channel.unary_unary(INFER) for channel in channels)
        running = [first(REQUEST), first(REQUEST)]
        for _ in running:
            async with asyncio.timeout(PATIENCE_S):
                await model.arrived.get()
        code, words = await end_of(first(REQUEST))
        assert (code, "2 calls are open on this connection; server.max_connection_calls = 2") == (
            Code.UNAVAILABLE,
            words.removeprefix("Exceeds maximum queue size: "),
        )
        running.append(second(REQUEST))
        async with asyncio.timeout(PATIENCE_S):
            await model.arrived.get()
        code, words = await end_of(second(REQUEST))
        assert (code, words.endswith("server.max_concurrent_calls = 3")) == (Code.UNAVAILABLE, True)
        for channel in channels:
            await channel.unary_unary(LIVE)(b"", timeout=PATIENCE_S)
        model.gate.set()
        for call in running:
            assert await call
        assert await first(REQUEST, timeout=PATIENCE_S)


async def test_streams_are_bounded() -> None:
    server = echo_server(EchoModel(), max_connection_streams=2)
    async with server as echo, connected(echo) as channel:
        stream = channel.stream_stream(STREAM)
        calls = [stream(quiet()) for _ in range(3)]
        ended, _ = await asyncio.wait(
            [asyncio.ensure_future(call.code()) for call in calls],
            return_when=asyncio.FIRST_COMPLETED,
            timeout=PATIENCE_S,
        )
        assert [task.result() for task in ended] == [Code.UNAVAILABLE]
        for call in calls:
            call.cancel()


async def test_calls_whose_message_never_comes_make_room_for_others() -> None:
    model = EchoModel()
    model.gate.set()
    server = echo_server(model, max_concurrent_calls=2, receive_timeout_s=0.2)
    async with server as echo, connected(echo) as channel:
        silent = [channel.stream_unary(INFER)(quiet()) for _ in range(2)]
        for call in silent:
            code, words = await end_of(call)
            assert (code, "server.receive_timeout_s" in words) == (Code.DEADLINE_EXCEEDED, True)
        assert await channel.unary_unary(INFER)(REQUEST, timeout=PATIENCE_S)


async def test_a_call_without_a_message_is_told_so(echo: Any) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    async with connected(echo) as channel:
        code, words = await end_of(channel.stream_unary(INFER)(nothing()))
    assert (code, words.startswith("request: is missing")) == (Code.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("size", [0, 1000, MIB, 4 * MIB])
async def test_compressed_messages_are_unpacked_up_to_the_limit(kind: Any, size: int) -> None:
    model = EchoModel()
    model.gate.set()
    request = service_pb2.ModelInferRequest.FromString(REQUEST)
    request.id = "a" * size
    message = request.SerializeToString()
    server = echo_server(model, max_message_bytes=2 * MIB)
    async with server as echo, connected(echo) as channel:
        call = channel.unary_unary(INFER)(message, compression=kind, timeout=PATIENCE_S)
        if len(message) <= 2 * MIB:
            reply = service_pb2.ModelInferResponse.FromString(await call)
            assert reply.id == request.id
            return
        code, words = await end_of(call)
    assert (code, "server.max_message_bytes = 2097152" in words) == (Code.INVALID_ARGUMENT, True)


async def test_packed_bytes_that_wait_are_bounded() -> None:
    doors = echo_doors(echo_scope(asyncio.Event()))
    unpacking = doors.unpacking
    large = gzip.compress(bytes(MIB))
    unpacking._max_waiting_bytes = 2 * len(large)
    with pytest.raises(Overloaded, match="wait to be unpacked"):
        await unpacking.decoded(gzip.compress(bytes(MIB), 0), lambda data: data)
    messages = [unpacking.decoded(large, len) for _ in range(3)]
    found = await asyncio.gather(*messages, return_exceptions=True)
    assert found[:2] == [MIB, MIB]
    assert isinstance(found[2], Overloaded)


@given(st.sampled_from([b"", b"\x78\x9c", b"\x78\x01", b"\x1f\x8b\x08"]), st.binary(max_size=200))
def test_what_is_not_packed_is_left_as_it_is(first: bytes, rest: bytes) -> None:
    async def decoded(message: bytes) -> object:
        return await echo_doors(echo_scope(asyncio.Event())).unpacking.decoded(message, bytes)

    for message in (first + rest, zlib.compress(rest), gzip.compress(rest)):
        unpacking = zlib.decompressobj(47)
        expected = message
        with suppress(zlib.error):
            data = unpacking.decompress(message)
            expected = data if unpacking.eof else message
        assert asyncio.run(decoded(message)) == expected


@pytest.mark.parametrize(
    ("model", "code"), [("absent", Code.NOT_FOUND), ("echo", Code.INVALID_ARGUMENT)]
)
async def test_a_refused_request_is_not_kept(echo: Any, model: str, code: Code) -> None:
    request = service_pb2.ModelInferRequest(model_name=model, id="x" * (8 * MIB))
    request.inputs.add(name="nobody", datatype="INT64", shape=[1])
    message = request.SerializeToString()
    gc.collect()
    gc.disable()
    try:
        async with connected(echo) as channel:
            call = channel.unary_unary(INFER)
            await end_of(call(message))
            before = resident_bytes()
            for _ in range(20):
                assert (await end_of(call(message)))[0] is code
        assert resident_bytes() - before < 60 * MIB
    finally:
        gc.enable()

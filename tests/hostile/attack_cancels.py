"""Calls of every kind that their client gives up on.

As a module: `python -m tests.hostile.attack_cancels TARGET CALLS`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from grpc import aio
from tritonclient.grpc import service_pb2

from tests.hostile.target import UNLIMITED, Target
from tests.hostile.watching import ROOT
from vecserve.v1 import embedding_pb2, search_pb2

Call = Callable[[Any], Any]
TEXT = "a text that is given up on"
AT_ONCE = 50
PATIENCE_S = 120.0
DELAYS_S = (0.0, 0.001, 0.002, 0.004)


def every_kind(target: Target, calls: int = 8000) -> None:
    """Unary calls and streams, our own and the inference protocol's, cancelled after 0 to 4 ms."""
    # In a process of its own: gRPC's asyncio clients do not survive the loop that they began with.
    command = [sys.executable, "-m", __name__, target.server.target, str(calls)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=PATIENCE_S)


async def cancel_all(target: str, calls: int) -> None:
    """Cancel so many calls, the kinds in turn."""
    async with aio.insecure_channel(target, options=UNLIMITED) as channel:
        kinds = list(KINDS.values())
        for first in range(0, calls, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, calls))
            await asyncio.gather(*(_cancelled(channel, kinds, number) for number in numbers))


async def _cancelled(channel: aio.Channel, kinds: list[Call], number: int) -> None:
    call = kinds[number % len(kinds)](channel)
    await asyncio.sleep(DELAYS_S[number // len(kinds) % len(DELAYS_S)])
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call.code()


def _embed() -> bytes:
    inputs = [embedding_pb2.EmbedInput(text=TEXT)]
    return embedding_pb2.EmbedRequest(request_id="1", inputs=inputs).SerializeToString()


def _embed_message() -> bytes:
    request = embedding_pb2.EmbedRequest(
        request_id="1", inputs=[embedding_pb2.EmbedInput(text=TEXT)]
    )
    return embedding_pb2.EmbedStreamRequest(request=request).SerializeToString()


def _search() -> bytes:
    query = search_pb2.Query(text=TEXT)
    return search_pb2.SearchRequest(collection="probe", query=query).SerializeToString()


def _infer() -> bytes:
    data = TEXT.encode()
    request = service_pb2.ModelInferRequest(
        model_name="all-MiniLM-L6-v2",
        inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 1]}],
        raw_input_contents=[len(data).to_bytes(4, "little") + data],
    )
    return bytes(request.SerializeToString())


def _unary(method: str, message: bytes) -> Call:
    return lambda channel: channel.unary_unary(method)(message)


def _client_stream(method: str, message: bytes) -> Call:
    # Two messages, where the method takes one.
    return lambda channel: channel.stream_unary(method)(iter([message, message]))


def _server_stream(method: str, message: bytes) -> Call:
    return lambda channel: channel.unary_stream(method)(message)


def _both(method: str, message: bytes) -> Call:
    return lambda channel: channel.stream_stream(method)(_repeated(message))


def _repeated(message: bytes) -> Iterator[bytes]:
    yield from [message] * 3


OWN, OTHER = "/vecserve.v1", "/inference.GRPCInferenceService"
KINDS: dict[str, Call] = {
    "Embed": _unary(f"{OWN}.EmbeddingService/Embed", _embed()),
    "Embed, two messages": _client_stream(f"{OWN}.EmbeddingService/Embed", _embed()),
    "EmbedStream": _both(f"{OWN}.EmbeddingService/EmbedStream", _embed_message()),
    "Search": _unary(f"{OWN}.SearchService/Search", _search()),
    "ListModels": _unary(f"{OWN}.AdminService/ListModels", b""),
    "ModelInfer": _unary(f"{OTHER}/ModelInfer", _infer()),
    "ModelStreamInfer": _both(f"{OTHER}/ModelStreamInfer", _infer()),
    "ServerLive": _unary(f"{OTHER}/ServerLive", b""),
    "Health.Watch": _server_stream("/grpc.health.v1.Health/Watch", b""),
}

if __name__ == "__main__":
    asyncio.run(cancel_all(sys.argv[1], int(sys.argv[2])))

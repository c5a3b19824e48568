"""Messages that take more memory than they should: before, while and after they are parsed."""

from __future__ import annotations

import time
from threading import Thread

import grpc
from tritonclient.grpc import service_pb2

from tests.hostile.half_sent import HalfSent
from tests.hostile.target import Target, outcomes
from vecserve.v1 import collection_pb2, embedding_pb2

MIB = 1 << 20
GET = "/vecserve.v1.CollectionService/GetCollection"
EMBED = "/vecserve.v1.EmbeddingService/Embed"
EMBED_STREAM = "/vecserve.v1.EmbeddingService/EmbedStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
PATIENCE_S = 60.0
Code = grpc.StatusCode


def zipped(target: Target) -> None:
    """Three messages of 500 MB at once, half a megabyte each on the wire."""
    message = collection_pb2.GetCollectionRequest(request_id="a" * (500 * MIB)).SerializeToString()
    with target.channel() as channel:
        call = channel.unary_unary(GET)
        calls = [
            call.future(message, timeout=PATIENCE_S, compression=grpc.Compression.Gzip)
            for _ in range(3)
        ]
        assert set(outcomes(calls)) == {Code.INVALID_ARGUMENT}


def zipped_within_the_limit(target: Target) -> None:
    """A hundred messages that are 31 MB each once they are unpacked, gzip and deflate."""
    message = collection_pb2.GetCollectionRequest(request_id="a" * (31 * MIB)).SerializeToString()
    kinds = (grpc.Compression.Gzip, grpc.Compression.Deflate)
    with target.channel() as channel:
        call = channel.unary_unary(GET)
        calls = [
            call.future(message, timeout=PATIENCE_S, compression=kinds[number % 2])
            for number in range(100)
        ]
        assert set(outcomes(calls)) <= {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}


def whole(target: Target) -> None:
    """Forty large messages at once over four connections, uncompressed."""
    request = embedding_pb2.EmbedRequest(
        inputs=[embedding_pb2.EmbedInput(text="x" * (MIB + 1))] * 30
    )
    message = request.SerializeToString()

    def send() -> None:
        with target.channel() as channel:
            call = channel.unary_unary(EMBED)
            for future in [call.future(message, timeout=PATIENCE_S) for _ in range(10)]:
                future.code()

    _at_once([Thread(target=send) for _ in range(4)])


def half_sent(target: Target, method: str = EMBED, calls: int = 200) -> None:
    """Messages of 31 MB that never end, on many calls of two connections."""
    _half_sent(target, method, calls)


def half_sent_on_streams(target: Target) -> None:
    """The same on streams, where a client may take as long as it likes."""
    _half_sent(target, EMBED_STREAM, 200)


def empty_fields(target: Target) -> None:
    """Messages of millions of empty fields, which take forty times their size once parsed."""
    with target.channel() as channel:
        for method, tag in ((EMBED, 2), (INFER, 5), (INFER, 6), (INFER, 4)):
            bomb = bytes((tag << 3 | 2, 0)) * (15 * MIB)
            call = channel.unary_unary(method)
            calls = [call.future(bomb, timeout=PATIENCE_S) for _ in range(3)]
            assert set(outcomes(calls)) <= {Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED}


def typed_numbers(target: Target) -> None:
    """Numbers of one byte on the wire and eight in memory."""
    contents = service_pb2.InferTensorContents(int64_contents=[1] * (30 * MIB))
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name="input_ids", datatype="INT64", shape=[1, 30 * MIB], contents=contents
    )
    message = service_pb2.ModelInferRequest(
        model_name="all-MiniLM-L6-v2", inputs=[tensor]
    ).SerializeToString()
    del contents, tensor
    with target.channel() as channel:
        call = channel.unary_unary(INFER)
        outcomes([call.future(message, timeout=PATIENCE_S) for _ in range(8)])


def _half_sent(target: Target, method: str, calls: int) -> None:
    def attack() -> None:
        connection = HalfSent(target.server.port)
        try:
            for _ in range(calls // 2):
                connection.begin(method, 31 * MIB)
            connection.send(6.0)
        except ConnectionError:
            pass  # cut off, which is as well
        finally:
            connection.close()

    _at_once([Thread(target=attack) for _ in range(2)])


def _at_once(threads: list[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)

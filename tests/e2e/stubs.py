"""Generated stubs of every service, and short ways to write requests, good and bad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2_grpc

from vecserve.v1 import (
    collection_pb2_grpc,
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

DIM = 384
TIMEOUT_S = 60.0


class Stubs:
    """One stub for each service, and a door for bytes that are no message."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        self.collection = collection_pb2_grpc.CollectionServiceStub(channel)
        self.index = index_pb2_grpc.IndexServiceStub(channel)
        self.search = search_pb2_grpc.SearchServiceStub(channel)
        self.inference = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def raw(self, method: str, data: bytes) -> bytes:
        call: Callable[..., bytes] = self.channel.unary_unary(method)
        return call(data, timeout=TIMEOUT_S)


def embed_request(**fields: Any) -> embedding_pb2.EmbedRequest:
    return embedding_pb2.EmbedRequest(**fields)


def texts(*values: str) -> list[embedding_pb2.EmbedInput]:
    return [embedding_pb2.EmbedInput(text=value) for value in values]


def upsert_request(*rows: index_pb2.UpsertRow, collection: str = "docs") -> index_pb2.UpsertRequest:
    return index_pb2.UpsertRequest(collection=collection, rows=rows)


def vector_of(values: list[float]) -> common_pb2.Vector:
    return common_pb2.Vector(data=np.array(values, "<f4").tobytes())


def search_request(**fields: Any) -> search_pb2.SearchRequest:
    return search_pb2.SearchRequest(**{"collection": "docs"} | fields)


def nested_filter(depth: int) -> bytes:
    """A DeleteRequest whose filter is a `not` of a `not` of …, as bytes."""
    body = b"\x22\x04\x0a\x02\xff\xfe"
    for _ in range(depth):
        body = b"\x1a" + varint(len(body)) + body
    return b"\x22" + varint(len(body)) + body


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


NAN = vector_of([float("nan")] * DIM)

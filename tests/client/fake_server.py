"""A gRPC server with scripted failures, for tests of the client.

Keeps rows in a dictionary; what a test scripts happens once for each scripted step.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import (
    error_details_pb2,
    status_pb2,
)
from grpc_status import rpc_status

from vecserve.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    common_pb2,
    embedding_pb2,
    embedding_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

DIM = 8
PATIENCE_S = 60.0
MODEL = common_pb2.ModelInfo(name="fake", version="1", digest="0" * 64)

Step = Callable[[grpc.ServicerContext], object]


def vector_of(text: str) -> np.ndarray:
    """The embedding that the fake server gives to a text, float32 [DIM]."""
    digest = hashlib.sha256(text.encode()).digest()
    return np.frombuffer(digest, dtype=np.uint8)[:DIM].astype(np.float32) / 255


class FakeServer:
    """What the servicers share: the script, the rows, and what was asked."""

    def __init__(self) -> None:
        self.script: deque[Step] = deque()
        """Happens at the start of the next calls, one step each."""
        self.stream_script: deque[str] = deque()
        """What happens to the next messages of streams: break, refuse, fail, mute or end."""
        self.rows: dict[str, str] = {}
        self.calls: list[str] = []
        self.stream_requests: list[str] = []
        self.searches: list[search_pb2.SearchRequest] = []
        self.asked_ids: list[int] = []
        """How many ids each Get and Delete named."""
        self.released = threading.Event()
        """Set when the test is over, so that calls that hang come back."""

    def begin(self, method: str, context: grpc.ServicerContext) -> None:
        self.calls.append(method)
        if self.script:
            self.script.popleft()(context)


def fail(code: grpc.StatusCode, message: str = "scripted") -> Step:
    return lambda context: context.abort(code, message)


def overloaded(retry_after_ms: int) -> Step:
    detail = AnyMessage()
    delay = Duration()
    delay.FromMilliseconds(retry_after_ms)
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(
        code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="queue full", details=[detail]
    )
    return lambda context: context.abort_with_status(rpc_status.to_status(status))


def embed_reply(request: embedding_pb2.EmbedRequest) -> embedding_pb2.EmbedResponse:
    reply = embedding_pb2.EmbedResponse(request_id=request.request_id, model=MODEL)
    for item in request.inputs:
        if item.text == "bad":
            error = common_pb2.ItemError(code=3, message="text: bad")
            reply.items.add(error=error)
        else:
            data = vector_of(item.text).astype("<f4").tobytes()
            vector = common_pb2.Vector(encoding=common_pb2.VECTOR_ENCODING_F32, dim=DIM, data=data)
            reply.items.add(vector=vector, tokens=len(item.text))
    return reply


def upsert_reply(server: FakeServer, request: index_pb2.UpsertRequest) -> index_pb2.UpsertResponse:
    reply = index_pb2.UpsertResponse(request_id=request.request_id)
    for row in request.rows:
        if row.text == "bad":
            reply.results.add(error=common_pb2.ItemError(code=3, message="text: bad"))
            continue
        server.rows[row.id] = row.text
        reply.results.add(seq=len(server.rows))
    return reply


class Embedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def Embed(
        self, request: embedding_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> embedding_pb2.EmbedResponse:
        self._server.begin("Embed", context)
        return embed_reply(request)

    def EmbedStream(
        self,
        requests: Iterator[embedding_pb2.EmbedStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[embedding_pb2.EmbedStreamResponse]:
        self._server.begin("EmbedStream", context)
        held: list[embedding_pb2.EmbedResponse] = []
        for message in requests:  # answers come in pairs, the later one first
            held.append(embed_reply(message.request))
            if len(held) == 2 or len(message.request.inputs) < 128:
                while held:
                    yield embedding_pb2.EmbedStreamResponse(response=held.pop())


class Index(index_pb2_grpc.IndexServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def Upsert(
        self, request: index_pb2.UpsertRequest, context: grpc.ServicerContext
    ) -> index_pb2.UpsertResponse:
        self._server.begin("Upsert", context)
        return upsert_reply(self._server, request)

    def UpsertStream(
        self,
        requests: Iterator[index_pb2.UpsertStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[index_pb2.UpsertStreamResponse]:
        self._server.begin("UpsertStream", context)
        for message in requests:
            request = message.request
            self._server.stream_requests.append(request.request_id)
            step = self._server.stream_script.popleft() if self._server.stream_script else ""
            if step == "break":  # the rows are written, the acknowledgement is lost
                upsert_reply(self._server, request)
                context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
            elif step == "end":
                return
            elif step == "mute":
                self._server.released.wait(PATIENCE_S)
            elif step in {"refuse", "fail"}:
                code = 8 if step == "refuse" else 5
                error = embedding_pb2.StreamError(
                    request_id=request.request_id, code=code, message=step
                )
                yield index_pb2.UpsertStreamResponse(error=error)
            else:
                yield index_pb2.UpsertStreamResponse(response=upsert_reply(self._server, request))

    def Get(
        self, request: index_pb2.GetRequest, context: grpc.ServicerContext
    ) -> index_pb2.GetResponse:
        self._server.begin("Get", context)
        self._server.asked_ids.append(len(request.ids))
        found = [id_ for id_ in request.ids if id_ in self._server.rows]
        return index_pb2.GetResponse(
            rows=[index_pb2.Row(id=id_, seq=1, payload_json='{"a": 1}') for id_ in found],
            missing_ids=[id_ for id_ in request.ids if id_ not in self._server.rows],
        )

    def Scan(
        self, request: index_pb2.ScanRequest, context: grpc.ServicerContext
    ) -> index_pb2.ScanResponse:
        self._server.begin("Scan", context)
        start = int(request.page_token or 0)
        ids = list(self._server.rows)
        end = start + request.page_size
        return index_pb2.ScanResponse(
            rows=[index_pb2.Row(id=id_, seq=1) for id_ in ids[start:end]],
            next_page_token=str(end) if end < len(ids) else "",
        )

    def Count(
        self, request: index_pb2.CountRequest, context: grpc.ServicerContext
    ) -> index_pb2.CountResponse:
        self._server.begin("Count", context)
        return index_pb2.CountResponse(row_count=len(self._server.rows))

    def Delete(
        self, request: index_pb2.DeleteRequest, context: grpc.ServicerContext
    ) -> index_pb2.DeleteResponse:
        self._server.begin("Delete", context)
        self._server.asked_ids.append(len(request.ids))
        deleted = [self._server.rows.pop(id_, None) for id_ in request.ids]
        return index_pb2.DeleteResponse(deleted_count=sum(row is not None for row in deleted))


class Searching(search_pb2_grpc.SearchServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def Search(
        self, request: search_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> search_pb2.SearchResponse:
        self._server.begin("Search", context)
        self._server.searches.append(request)
        hit = search_pb2.Hit(id=request.query.text, score=0.5, seq=7, payload_json='{"n": 1}')
        timings = common_pb2.Timings(encode_us=2, search_us=3, total_us=6)
        return search_pb2.SearchResponse(hits=[hit], timings=timings)

    def SearchBatch(
        self, request: search_pb2.SearchBatchRequest, context: grpc.ServicerContext
    ) -> search_pb2.SearchBatchResponse:
        self._server.begin("SearchBatch", context)
        results = [
            search_pb2.SearchBatchResult(hits=[search_pb2.Hit(id=query.text)])
            for query in request.queries
        ]
        return search_pb2.SearchBatchResponse(results=results)

    def Classify(
        self, request: search_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> search_pb2.ClassifyResponse:
        raise NotImplementedError


class Collections(collection_pb2_grpc.CollectionServiceServicer):
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._collections: dict[str, collection_pb2.Collection] = {}

    def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> collection_pb2.CreateCollectionResponse:
        self._server.begin("CreateCollection", context)
        if request.name in self._collections:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"collection {request.name!r} exists")
        made = collection_pb2.Collection(
            name=request.name,
            model=MODEL,
            dim=DIM,
            fields=request.fields,
            text_analysis=request.text_analysis,
        )
        self._collections[request.name] = made
        return collection_pb2.CreateCollectionResponse(collection=made)

    def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: grpc.ServicerContext
    ) -> collection_pb2.GetCollectionResponse:
        self._server.begin("GetCollection", context)
        if request.name not in self._collections:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no collection {request.name!r}")
        return collection_pb2.GetCollectionResponse(collection=self._collections[request.name])

    def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> collection_pb2.ListCollectionsResponse:
        self._server.begin("ListCollections", context)
        names = sorted(self._collections)
        position = int(request.page_token or 0)
        token = str(position + 1) if position + 1 < len(names) else ""
        page = [self._collections[name] for name in names[position : position + 1]]
        return collection_pb2.ListCollectionsResponse(collections=page, next_page_token=token)

    def DropCollection(
        self, request: collection_pb2.DropCollectionRequest, context: grpc.ServicerContext
    ) -> collection_pb2.DropCollectionResponse:
        self._server.begin("DropCollection", context)
        if self._collections.pop(request.name, None) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no collection {request.name!r}")
        return collection_pb2.DropCollectionResponse(row_count=len(self._server.rows))


@contextmanager
def running(server: FakeServer) -> Iterator[str]:
    """Serve on a free port; yields the target."""
    grpc_server = grpc.server(
        ThreadPoolExecutor(max_workers=8), options=[("grpc.max_receive_message_length", -1)]
    )
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(Embedding(server), grpc_server)
    index_pb2_grpc.add_IndexServiceServicer_to_server(Index(server), grpc_server)
    search_pb2_grpc.add_SearchServiceServicer_to_server(Searching(server), grpc_server)
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(Collections(server), grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.released.set()
        grpc_server.stop(grace=None).wait(PATIENCE_S)

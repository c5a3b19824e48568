"""Each mistake gets the right status and a message that names the field and the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.e2e.server_process import ServerProcess
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
from vecserve_client import Client

Code = grpc.StatusCode
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


@pytest.fixture
def stubs(server: ServerProcess) -> Iterator[Stubs]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        yield Stubs(channel)


@pytest.fixture(scope="module", autouse=True)
def collection(server: ServerProcess) -> None:
    with Client(target=server.target) as client:
        client.create_collection("docs")


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


NAN = vector_of([float("nan")] * DIM)
Call = Callable[[Stubs], Any]
CASES: dict[str, tuple[Call, grpc.StatusCode, str]] = {
    "unknown collection, search": (
        lambda s: s.search.Search(search_request(collection="none", query={"text": "x"})),
        Code.NOT_FOUND,
        "collection: 'none' does not exist",
    ),
    "unknown collection, upsert": (
        lambda s: s.index.Upsert(
            upsert_request(index_pb2.UpsertRow(id="a", text="x"), collection="none")
        ),
        Code.NOT_FOUND,
        "collection: 'none' does not exist",
    ),
    "unknown model": (
        lambda s: s.embedding.Embed(embed_request(model="none", inputs=texts("x"))),
        Code.NOT_FOUND,
        "model: 'none' is not loaded; loaded are all-MiniLM-L6-v2",
    ),
    "unknown model, KServe": (
        lambda s: s.inference.ModelInfer(service_pb2.ModelInferRequest(model_name="none")),
        Code.NOT_FOUND,
        "model: 'none' is not loaded",
    ),
    "wrong dimension, query": (
        lambda s: s.search.Search(search_request(query={"vector": vector_of([1.0] * 7)})),
        Code.INVALID_ARGUMENT,
        "queries[0].vector: has 7 components; the collection has 384",
    ),
    "NaN vector, query": (
        lambda s: s.search.Search(search_request(query={"vector": NAN})),
        Code.INVALID_ARGUMENT,
        "queries[0].vector: holds NaN or infinity",
    ),
    "no query": (
        lambda s: s.search.Search(search_request()),
        Code.INVALID_ARGUMENT,
        "queries[0]: has no content",
    ),
    "too many hits": (
        lambda s: s.search.Search(search_request(query={"text": "x"}, options={"k": 1001})),
        Code.INVALID_ARGUMENT,
        "options.k: is 1001; the limit is 1000",
    ),
    "score out of range": (
        lambda s: s.search.Search(search_request(query={"text": "x"}, options={"min_score": 2})),
        Code.INVALID_ARGUMENT,
        "options.min_score: is 2.0; -1 to 1",
    ),
    "filter, not offered": (
        lambda s: s.search.Search(
            search_request(query={"text": "x"}, options={"filter": {"field": {"field": "a"}}})
        ),
        Code.UNIMPLEMENTED,
        "options.filter: is not offered",
    ),
    "empty batch, embed": (
        lambda s: s.embedding.Embed(embed_request()),
        Code.INVALID_ARGUMENT,
        "inputs: is empty; 1 to 1024 items",
    ),
    "empty batch, upsert": (
        lambda s: s.index.Upsert(upsert_request()),
        Code.INVALID_ARGUMENT,
        "rows: is empty; 1 to 1024 items",
    ),
    "10 000 items, embed": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts(*["x"] * 10_000))),
        Code.INVALID_ARGUMENT,
        "inputs: has 10000 items; the limit is 1024",
    ),
    "10 000 items, upsert": (
        lambda s: s.index.Upsert(
            upsert_request(*[index_pb2.UpsertRow(id=str(n), text="x") for n in range(10_000)])
        ),
        Code.INVALID_ARGUMENT,
        "rows: has 10000 items; the limit is 1024",
    ),
    "10 000 ids": (
        lambda s: s.index.Delete(
            index_pb2.DeleteRequest(collection="docs", ids=[str(n) for n in range(10_000)])
        ),
        Code.INVALID_ARGUMENT,
        "ids: has 10000 items; the limit is 1024",
    ),
    "100 MB of text, KServe": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 1]}],
                raw_input_contents=[(10**8).to_bytes(4, "little") + b"x" * 10**8],
            )
        ),
        Code.INVALID_ARGUMENT,
        "inputs[0].text: has 100000000 bytes; the limit is 1048576",
    ),
    "non-UTF-8, embed": (
        lambda s: s.raw(
            "/vecserve.v1.EmbeddingService/Embed",
            embed_request(inputs=texts("good", "BADBAD"))
            .SerializeToString()
            .replace(b"BADBAD", b"\xff\xfeDBAD"),
        ),
        Code.INVALID_ARGUMENT,
        "inputs[1].text: is not valid UTF-8",
    ),
    "non-UTF-8, KServe": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 1]}],
                raw_input_contents=[b"\x02\x00\x00\x00\xff\xfe"],
            )
        ),
        Code.INVALID_ARGUMENT,
        "input 'text'[0]: is not valid UTF-8",
    ),
    "no message at all": (
        lambda s: s.raw("/vecserve.v1.SearchService/Search", b"\x0a\xff\xff"),
        Code.INVALID_ARGUMENT,
        "request: is not a valid vecserve.v1.SearchRequest message",
    ),
    "wrong tensor": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "pixels", "datatype": "FP32", "shape": [1]}],
                raw_input_contents=[b"\x00" * 4],
            )
        ),
        Code.INVALID_ARGUMENT,
        "inputs: are pixels; 'text' alone",
    ),
    "too many rows, KServe": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "text", "datatype": "BYTES", "shape": [10_000, 1]}],
                raw_input_contents=[b"\x01\x00\x00\x00x" * 10_000],
            )
        ),
        Code.INVALID_ARGUMENT,
        "have 10000 rows; max_batch_size",
    ),
    "deadline already passed": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts("x")), timeout=-1),
        Code.DEADLINE_EXCEEDED,
        "",
    ),
    "unknown prompt": (
        lambda s: s.embedding.Embed(
            embed_request(inputs=texts("x"), options={"prompt_name": "poem"})
        ),
        Code.INVALID_ARGUMENT,
        "options.prompt_name: 'poem' is unknown",
    ),
    "too many dimensions": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts("x"), options={"dimensions": 999})),
        Code.INVALID_ARGUMENT,
        "options.dimensions: is 999; the model has 384",
    ),
    "unknown encoding": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts("x"), options={"encoding": 77})),
        Code.INVALID_ARGUMENT,
        "options.encoding: 77 is not a VectorEncoding",
    ),
    "bad collection name": (
        lambda s: s.collection.CreateCollection(
            collection_pb2.CreateCollectionRequest(name="../etc")
        ),
        Code.INVALID_ARGUMENT,
        "name: '../etc' is not a name: 1 to 128 characters",
    ),
    "collection exists": (
        lambda s: s.collection.CreateCollection(
            collection_pb2.CreateCollectionRequest(name="docs")
        ),
        Code.ALREADY_EXISTS,
        "name: collection 'docs' exists already",
    ),
    "forged page token": (
        lambda s: s.index.Scan(index_pb2.ScanRequest(collection="docs", page_token="abc")),
        Code.INVALID_ARGUMENT,
        "page_token: is not one that this listing gave out",
    ),
    "long request id": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts("x"), request_id="x" * 129)),
        Code.INVALID_ARGUMENT,
        "request_id: has 129 bytes; the limit is 128",
    ),
    "not offered yet": (
        lambda s: s.search.Classify(search_pb2.ClassifyRequest(collection="docs")),
        Code.UNIMPLEMENTED,
        "Classify is not offered by this server",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_calls_fail_clearly_and_the_server_stays_up(stubs: Stubs, case: str) -> None:
    call, code, message = CASES[case]
    with pytest.raises(grpc.RpcError) as failure:
        call(stubs)
    assert (failure.value.code(), message in (failure.value.details() or "")) == (code, True), (
        failure.value.details()
    )
    healthy = stubs.embedding.Embed(embed_request(inputs=texts("fine")), timeout=TIMEOUT_S)
    assert healthy.items[0].tokens == 3


def test_a_text_of_100_mb_fails_alone(stubs: Stubs) -> None:
    request = embed_request(inputs=texts("short", "x" * 10**8))
    good, bad = stubs.embedding.Embed(request, timeout=TIMEOUT_S).items
    assert good.vector.dim == DIM
    assert bad.error.code == Code.INVALID_ARGUMENT.value[0]
    assert bad.error.message == "inputs[1].text: has 100000000 bytes; the limit is 1048576"


def test_bad_rows_fail_alone(stubs: Stubs) -> None:
    row = index_pb2.UpsertRow
    cases = [
        (row(id="", text="x"), "rows[0].id: has 0 bytes; 1 to 512"),
        (row(id="a\n", text="x"), "rows[1].id: holds a control character"),
        (row(id="b"), "rows[2]: has no content"),
        (row(id="c", vector=vector_of([1.0] * 3)), "rows[3].vector: has 3 components"),
        (row(id="d", vector=NAN), "rows[4].vector: holds NaN or infinity"),
        (row(id="e", vector=vector_of([0.0] * DIM)), "rows[5].vector: has length 0"),
        (row(id="f", text="x", payload_json="[]"), "rows[6].payload_json: must be a JSON object"),
        (row(id="g", text="x", payload_json="{"), "rows[7].payload_json: is not valid JSON"),
        (row(id="h", text="x" * 2_000_000), "rows[8].text: has 2000000 bytes"),
        (row(id="good", text="x", payload_json='{"a": 1}'), None),
    ]
    request = upsert_request(*[case[0] for case in cases])
    results = stubs.index.Upsert(request, timeout=TIMEOUT_S).results
    for result, (_, problem) in zip(results, cases, strict=True):
        if problem is None:
            assert result.seq > 0
        else:
            assert problem in result.error.message
    count = stubs.index.Count(index_pb2.CountRequest(collection="docs"), timeout=TIMEOUT_S)
    assert count.row_count == 1


def test_a_bad_message_on_a_stream_does_not_end_it(stubs: Stubs) -> None:
    def stream() -> Iterator[embedding_pb2.EmbedStreamRequest]:
        for number, model in enumerate(["", "none", ""]):
            request = embed_request(request_id=str(number), model=model, inputs=texts("x"))
            yield embedding_pb2.EmbedStreamRequest(request=request)
        yield embedding_pb2.EmbedStreamRequest(request=embed_request(inputs=texts("x")))

    replies = list(stubs.embedding.EmbedStream(stream(), timeout=TIMEOUT_S))
    good = {r.response.request_id for r in replies if r.HasField("response")}
    bad = {r.error.request_id: r.error.message for r in replies if r.HasField("error")}
    assert good == {"0", "2"}
    assert "'none' is not loaded" in bad["1"]
    assert "request.request_id: is empty" in bad[""]

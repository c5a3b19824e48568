"""Each mistake gets the right status and a message that names the field and the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import (
    NAN,
    TIMEOUT_S,
    Stubs,
    embed_request,
    nested_filter,
    search_request,
    texts,
    upsert_request,
    vector_of,
)
from vecserve.v1 import collection_pb2, index_pb2, search_pb2
from vecserve_client import Client
from vecserve_server.gateway.common.page_tokens import write_page_token

Code = grpc.StatusCode


@pytest.fixture(scope="module", autouse=True)
def collection(server: ServerProcess) -> None:
    with Client(target=server.target) as client:
        client.create_collection("docs")


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
        "'none'",
    ),
    "wrong dimension, query": (
        lambda s: s.search.Search(search_request(query={"vector": vector_of([1.0] * 7)})),
        Code.INVALID_ARGUMENT,
        "query.vector: has 7 components; the collection has 384",
    ),
    "NaN vector, query": (
        lambda s: s.search.Search(search_request(query={"vector": NAN})),
        Code.INVALID_ARGUMENT,
        "query.vector: holds NaN or infinity",
    ),
    "no query": (
        lambda s: s.search.Search(search_request()),
        Code.INVALID_ARGUMENT,
        "query: has no content",
    ),
    "more hits than one call may have": (
        lambda s: s.search.SearchBatch(
            search_pb2.SearchBatchRequest(
                collection="docs",
                queries=[search_pb2.Query(text="x")] * 100,
                options=search_pb2.SearchOptions(k=1000),
            )
        ),
        Code.INVALID_ARGUMENT,
        "options.k: times 100 queries is 100000; the limit is 32768",
    ),
    "other dimensions than the collection's": (
        lambda s: s.search.Search(
            search_request(query={"text": "x"}, embed_options={"dimensions": 64})
        ),
        Code.INVALID_ARGUMENT,
        "embed_options.dimensions: is 64; collection 'docs' has 384",
    ),
    "a name too long to quote": (
        lambda s: s.search.Search(search_request(collection="x" * 50_000, query={"text": "x"})),
        Code.NOT_FOUND,
        "collection: 'xxx",
    ),
    "nested deeper than protobuf reads": (
        lambda s: s.raw("/vecserve.v1.IndexService/Delete", nested_filter(5000)),
        Code.INVALID_ARGUMENT,
        "request: is not a valid vecserve.v1.DeleteRequest message",
    ),
    "a shape that claims a billion texts": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 10**9]}],
                raw_input_contents=[b"\x00" * 4],
            )
        ),
        Code.INVALID_ARGUMENT,
        "input 'text': has the shape [1, 1000000000]; the model takes [-1, 1]",
    ),
    "forged position in a page token": (
        lambda s: s.index.Scan(
            index_pb2.ScanRequest(
                collection="docs", page_token=write_page_token("scan:docs", "9" * 5000)
            )
        ),
        Code.INVALID_ARGUMENT,
        "page_token: is not one that this listing gave out",
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
    "filter without a test": (
        lambda s: s.search.Search(
            search_request(query={"text": "x"}, options={"filter": {"field": {"field": "a"}}})
        ),
        Code.INVALID_ARGUMENT,
        "options.filter.field: has no test",
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
    "10 MB of text, KServe": (
        lambda s: s.inference.ModelInfer(
            service_pb2.ModelInferRequest(
                model_name="all-MiniLM-L6-v2",
                inputs=[{"name": "text", "datatype": "BYTES", "shape": [1, 1]}],
                raw_input_contents=[(10**7).to_bytes(4, "little") + b"x" * 10**7],
            )
        ),
        Code.INVALID_ARGUMENT,
        "input 'text'[0]: has 10000000 bytes; the limit is 1048576",
    ),
    "100 MB of text": (
        lambda s: s.embedding.Embed(embed_request(inputs=texts("x" * 10**8))),
        Code.RESOURCE_EXHAUSTED,
        "Received message larger than max (100000010 vs. 33554432)",
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
        "input 'pixels': is unknown; the model has 'text', 'input_ids', 'attention_mask'",
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
        "input 'text': has 10000 rows; 1 to max_batch_size = 64",
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
    "unknown prompt of a query": (
        lambda s: s.search.Search(
            search_request(query={"text": "x"}, embed_options={"prompt_name": "poem"})
        ),
        Code.INVALID_ARGUMENT,
        "embed_options.prompt_name: 'poem' is unknown",
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
    "no label field": (
        lambda s: s.search.Classify(search_pb2.ClassifyRequest(collection="docs")),
        Code.INVALID_ARGUMENT,
        "label_field: has 0 bytes; 1 to 128 are allowed",
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

"""One bad item of a batch or a stream fails alone, and says which one it is."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import (
    DIM,
    NAN,
    TIMEOUT_S,
    Stubs,
    embed_request,
    texts,
    upsert_request,
    vector_of,
)
from vecserve.v1 import common_pb2, embedding_pb2, index_pb2, search_pb2
from vecserve_client import Client

Code = grpc.StatusCode


@pytest.fixture(scope="module", autouse=True)
def collection(server: ServerProcess) -> None:
    with Client(target=server.target) as client:
        client.create_collection("docs")


def test_a_text_of_10_mb_fails_alone(stubs: Stubs) -> None:
    request = embed_request(inputs=texts("short", "x" * 10**7))
    good, bad = stubs.embedding.Embed(request, timeout=TIMEOUT_S).items
    assert good.vector.dim == DIM
    assert bad.error.code == Code.INVALID_ARGUMENT.value[0]
    assert bad.error.message == "inputs[1].text: has 10000000 bytes; the limit is 1048576"


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
        (
            row(id="i", text="x", payload_json='{"a": "\\ud800"}'),
            "rows[9].payload_json: holds a lone",
        ),
        (row(id="j", image=b"x"), "rows[10].image: model 'all-MiniLM-L6-v2' takes text only"),
        (row(id="k", vector=common_pb2.Vector(data=b"123")), "rows[11].vector.data: has 3 bytes"),
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


def test_bad_queries_fail_alone_and_are_told_by_their_place(stubs: Stubs) -> None:
    queries = [
        search_pb2.Query(text="fine"),
        search_pb2.Query(vector=NAN),
        search_pb2.Query(text="x" * 2_000_000),
        search_pb2.Query(image=b"x"),
        search_pb2.Query(vector=common_pb2.Vector(data=b"123")),
        search_pb2.Query(row_id="nobody"),
    ]
    request = search_pb2.SearchBatchRequest(collection="docs", queries=queries, request_id="r")
    reply = stubs.search.SearchBatch(request, timeout=TIMEOUT_S)
    problems = [
        "",
        "queries[1].vector: holds NaN",
        "queries[2].text: has 2000000 bytes",
        "queries[3].image: model 'all-MiniLM-L6-v2' takes text only",
        "queries[4].vector.data: has 3 bytes",
        "queries[5].row_id: 'nobody' does not exist",
    ]
    for result, problem in zip(reply.results, problems, strict=True):
        assert result.error.message.startswith(problem)
        assert bool(result.error.code) == bool(problem)
    assert reply.request_id == "r"
    assert reply.timings.total_us > 0

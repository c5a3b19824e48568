"""The synchronous client against a server that fails on purpose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import grpc
import numpy as np
import pytest

from tests.client.fake_server import DIM, PATIENCE_S, FakeServer, fail, overloaded, vector_of
from vecserve_client import (
    AlreadyExists,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    Record,
    RetryPolicy,
    Unavailable,
    Unimplemented,
    channel,
)
from vecserve_client.batching import MESSAGE_BYTES
from vecserve_client.filters import exists

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def records(count: int) -> Iterator[Record]:
    return (Record(id=f"r{i}", text=f"text {i}") for i in range(count))


def test_a_call_that_is_unavailable_twice_succeeds_the_third_time(
    client: Client, server: FakeServer
) -> None:
    server.script.extend([fail(UNAVAILABLE), fail(UNAVAILABLE)])
    assert client.count("docs") == 0
    assert server.calls == ["Count"] * 3


def test_a_method_that_is_not_idempotent_is_not_repeated(
    client: Client, server: FakeServer
) -> None:
    server.script.append(fail(UNAVAILABLE, "lost"))
    with pytest.raises(Unavailable, match="CreateCollection: lost"):
        client.create_collection("docs")
    assert server.calls == ["CreateCollection"]


def test_a_conditional_upsert_is_not_repeated(client: Client, server: FakeServer) -> None:
    server.script.append(fail(UNAVAILABLE))
    with pytest.raises(Unavailable):
        client.upsert("docs", [Record(id="a", text="x", expected_seq=0)])
    assert server.calls == ["Upsert"]


def test_an_overloaded_server_is_asked_again_when_it_says(
    client: Client, server: FakeServer
) -> None:
    server.script.append(overloaded(retry_after_ms=150))
    started = time.monotonic()
    assert client.search("docs", "q").hits[0].id == "q"
    assert time.monotonic() - started >= 0.15
    assert server.calls == ["Search"] * 2


def test_overload_that_lasts_longer_than_the_deadline_is_reported_at_once(
    client: Client, server: FakeServer
) -> None:
    server.script.append(overloaded(retry_after_ms=90_000))
    started = time.monotonic()
    with pytest.raises(Overloaded, match="queue full") as raised:
        client.search("docs", "q", timeout_s=PATIENCE_S)
    assert raised.value.retry_after_s == pytest.approx(90)
    assert time.monotonic() - started < PATIENCE_S


def test_a_call_that_hangs_ends_at_its_deadline(client: Client, server: FakeServer) -> None:
    server.script.append(lambda _: server.released.wait(PATIENCE_S))
    with pytest.raises(DeadlineExceeded):
        client.count("docs", timeout_s=0.1)
    assert len(server.calls) <= 1  # a busy machine may not even have connected within the deadline


def test_mistakes_are_reported_with_method_and_message(client: Client, server: FakeServer) -> None:
    with pytest.raises(NotFound, match="GetCollection: no collection 'nope'"):
        client.get_collection("nope")
    client.create_collection("docs")
    with pytest.raises(AlreadyExists):
        client.create_collection("docs")
    with pytest.raises(Unimplemented):
        client.list_models()
    assert server.calls == ["GetCollection", "CreateCollection", "CreateCollection"]


def test_no_server_is_unavailable() -> None:
    policy = RetryPolicy(max_attempts=2, initial_backoff_s=0.001)
    with (
        Client(target="127.0.0.1:1", retry=policy, deadline_s=PATIENCE_S) as nobody,
        pytest.raises(Unavailable),
    ):
        nobody.list_collections()


def test_waiting_for_a_server_that_never_comes_says_what_it_saw() -> None:
    with (
        Client(target="127.0.0.1:1") as nobody,
        pytest.raises(DeadlineExceeded, match=r"not ready after 0\.2 s: Check: "),
    ):
        nobody.wait_ready(timeout_s=0.2)


@pytest.mark.parametrize("count", [0, 1, 128, 129, 700])
def test_texts_come_back_in_order_whatever_their_number(
    client: Client, server: FakeServer, count: int
) -> None:
    texts = [f"text {i}" for i in range(count)]
    result = client.embed(texts)
    assert result.errors == {}
    assert result.vectors.dtype == np.float32
    assert result.vectors.shape == (count, DIM if count else 0)
    for text, vector in zip(texts, result.vectors, strict=True):
        np.testing.assert_array_equal(vector, vector_of(text))
    assert result.tokens.tolist() == [len(text) for text in texts]
    if count:
        assert server.calls == ["Embed" if count <= 128 else "EmbedStream"]


def test_a_text_that_fails_leaves_the_others_alone(client: Client) -> None:
    texts = ["good"] * 200
    texts[150] = "bad"
    result = client.embed(texts)
    assert list(result.errors) == [150]
    assert isinstance(result.errors[150], InvalidArgument)
    assert np.isnan(result.vectors[150]).all()
    assert np.isfinite(np.delete(result.vectors, 150, axis=0)).all()


def test_a_long_upsert_is_one_result(client: Client, server: FakeServer) -> None:
    result = client.upsert("docs", records(600))
    assert len(result.seqs) == 600
    assert result.seqs == tuple(range(1, 601))
    assert server.calls == ["UpsertStream"]
    assert len(result.timings) == 3


@pytest.mark.parametrize(
    "script",
    [
        ["", "break"],
        ["", "", "end", "", "break"],
        ["refuse", "refuse", "", "refuse"],
        ["break", "break", "", "break"],
    ],
)
def test_a_stream_that_breaks_loses_nothing_and_acknowledges_nothing_twice(
    client: Client, server: FakeServer, script: list[str]
) -> None:
    server.stream_script.extend(script)
    acknowledged = [
        id_
        for batch in client.upsert_many("docs", records(95), batch_rows=10, window=3)
        for id_ in batch.ids
    ]
    assert sorted(acknowledged) == sorted(f"r{i}" for i in range(95))
    assert sorted(server.rows) == sorted(acknowledged)


def test_a_conditional_row_on_a_broken_stream_is_not_sent_again(
    client: Client, server: FakeServer
) -> None:
    server.stream_script.append("break")
    rows = [Record(id=str(i), text="x", expected_seq=0) for i in range(4)]
    with pytest.raises(Unavailable):
        list(client.upsert_many("docs", rows, batch_rows=2))
    assert server.calls == ["UpsertStream"]


def test_a_request_that_fails_for_good_ends_the_upsert(client: Client, server: FakeServer) -> None:
    server.stream_script.extend(["", "fail"])
    batches = client.upsert_many("docs", records(40), batch_rows=10, window=1)
    assert next(batches).start == 0
    with pytest.raises(NotFound, match="UpsertStream: fail"):
        next(batches)


def test_a_stream_that_says_nothing_ends_at_the_deadline(
    client: Client, server: FakeServer
) -> None:
    server.stream_script.append("mute")
    with pytest.raises(DeadlineExceeded, match="UpsertStream: no answer within"):
        list(client.upsert_many("docs", records(5), timeout_s=0.1))


def test_rows_are_drawn_only_as_fast_as_the_window_allows(client: Client) -> None:
    drawn = 0

    def counted() -> Iterator[Record]:
        nonlocal drawn
        for record in records(1000):
            drawn += 1
            yield record

    batches = client.upsert_many("docs", counted(), batch_rows=10, window=2)
    next(batches)
    assert drawn <= 2 * 10 + 1  # one row is read ahead to see that a batch is full
    batches.close()  # type: ignore[attr-defined]


def test_a_slow_consumer_does_not_run_into_the_deadline(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(channel, "time", SimpleNamespace(monotonic=lambda: now_s))
    written = 0
    for batch in client.upsert_many("docs", records(60), batch_rows=10, window=2):
        now_s += 2 * PATIENCE_S  # outlasts the client's deadline
        written += len(batch.ids)
    assert written == 60


def test_a_scan_reads_every_page(client: Client) -> None:
    client.upsert("docs", records(25))
    assert [row.id for row in client.scan("docs", page_size=10)] == [f"r{i}" for i in range(25)]


def test_rows_are_read_counted_and_deleted(client: Client) -> None:
    client.upsert("docs", records(3))
    found = client.get("docs", ["r0", "nope", "r2"])
    assert [row.id for row in found.rows] == ["r0", "r2"]
    assert found.missing_ids == ("nope",)
    assert found.rows[0].payload == {"a": 1}
    assert client.delete("docs", ["r0", "nope"]) == 1
    assert client.count("docs") == 2


def test_many_ids_go_in_several_requests(client: Client, server: FakeServer) -> None:
    client.upsert("docs", records(2000))
    ids = [f"r{i}" for i in range(2500)]
    found = client.get("docs", ids)
    assert [row.id for row in found.rows] == ids[:2000]
    assert found.missing_ids == tuple(ids[2000:])
    assert client.delete("docs", ids) == 2000
    assert server.asked_ids == [1024, 1024, 452] * 2


def test_no_ids_are_a_request_that_the_server_judges(client: Client, server: FakeServer) -> None:
    client.get("docs", [])
    client.delete("docs", where=exists("colour"))
    assert server.asked_ids == [0, 0]


def test_long_texts_are_spread_over_requests(client: Client, server: FakeServer) -> None:
    rows = [Record(id=str(i), text="é" * 400_000) for i in range(5)]  # two fill a request
    client.upsert("docs", rows)
    assert server.stream_requests == ["0", "2", "4"]


def test_what_is_too_large_for_any_message_is_refused_before_it_is_sent(
    client: Client, server: FakeServer
) -> None:
    huge = "x" * (MESSAGE_BYTES + 1)
    refusal = rf"has {MESSAGE_BYTES + 1} bytes; the limit of one message is {MESSAGE_BYTES}$"
    with pytest.raises(InvalidArgument, match=rf"^texts\[1\]: {refusal}"):
        client.embed(["fine", huge])
    with pytest.raises(InvalidArgument, match=rf"^ids\[1\]: {refusal}"):
        client.delete("docs", ["fine", huge])
    assert server.calls == []


@pytest.mark.slow
def test_a_request_that_is_too_large_as_a_whole_is_refused_before_it_is_sent(
    client: Client, server: FakeServer
) -> None:
    huge = "x" * (MESSAGE_BYTES + 1)
    with pytest.raises(InvalidArgument, match=r"^rows\[1\]: has \d+ bytes"):
        client.upsert("docs", [Record(id="a", text="fine"), Record(id="b", text=huge)])
    with pytest.raises(InvalidArgument, match=r"^query: has \d+ bytes"):
        client.search("docs", huge)
    with pytest.raises(InvalidArgument, match=r"^request: has \d+ bytes"):
        client.count(huge)
    with pytest.raises(InvalidArgument, match=r"^request: has \d+ bytes"):
        list(client.upsert_many(huge, records(1)))
    assert server.stream_requests == []


def test_whether_a_text_that_a_message_holds_is_too_long_the_server_says(
    client: Client, server: FakeServer
) -> None:
    server.script.append(fail(grpc.StatusCode.INVALID_ARGUMENT, "inputs[0].text: too long"))
    with pytest.raises(InvalidArgument, match="inputs"):
        client.embed(["x" * 20_000_000])


def test_many_queries_are_answered_in_order(client: Client, server: FakeServer) -> None:
    queries = [f"q{i}" for i in range(2100)]
    results = client.search_batch("docs", queries)
    assert [result.hits[0].id for result in results] == queries
    assert server.calls == ["SearchBatch"] * 3


def test_collections_are_listed_over_all_pages(client: Client) -> None:
    for name in "cab":
        client.create_collection(name)
    assert [found.name for found in client.list_collections()] == ["a", "b", "c"]


def test_a_timeout_must_be_positive(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s"):
        client.count("docs", timeout_s=0)


def test_a_closed_client_says_so(client: Client) -> None:
    client.close()
    with pytest.raises(Cancelled, match="Count: the client is closed"):
        client.count("docs")
    with pytest.raises(Cancelled, match="UpsertStream: the client is closed"):
        list(client.upsert_many("docs", records(3)))

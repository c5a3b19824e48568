"""The asynchronous client against a server that fails on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
import pytest_asyncio

from tests.client.fake_server import PATIENCE_S, FakeServer, fail, overloaded, vector_of
from vecserve_client import (
    AsyncClient,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Overloaded,
    Record,
    RetryPolicy,
    Unavailable,
)
from vecserve_client.batching import MESSAGE_BYTES


@pytest_asyncio.fixture
async def client(target: str) -> AsyncIterator[AsyncClient]:
    quick = RetryPolicy(initial_backoff_s=0.001)
    async with AsyncClient(target=target, deadline_s=PATIENCE_S, retry=quick) as connected:
        yield connected


def records(count: int) -> list[Record]:
    return [Record(id=f"r{i}", text=f"text {i}") for i in range(count)]


async def test_a_call_that_is_unavailable_twice_succeeds_the_third_time(
    client: AsyncClient, server: FakeServer
) -> None:
    server.script.extend([fail(grpc.StatusCode.UNAVAILABLE)] * 2)
    assert await client.count("docs") == 0
    assert server.calls == ["Count"] * 3


async def test_what_cannot_be_repeated_is_not(client: AsyncClient, server: FakeServer) -> None:
    server.script.append(fail(grpc.StatusCode.UNAVAILABLE))
    with pytest.raises(Unavailable):
        await client.create_collection("docs")
    assert server.calls == ["CreateCollection"]


async def test_the_retry_hint_is_read(client: AsyncClient, server: FakeServer) -> None:
    server.script.append(overloaded(retry_after_ms=90_000))
    with pytest.raises(Overloaded) as raised:
        await client.search("docs", "q", timeout_s=PATIENCE_S)
    assert raised.value.retry_after_s == pytest.approx(90)


async def test_a_call_that_hangs_ends_at_its_deadline(
    client: AsyncClient, server: FakeServer
) -> None:
    server.script.append(lambda _: server.released.wait(PATIENCE_S))
    with pytest.raises(DeadlineExceeded):
        await client.count("docs", timeout_s=0.1)


async def test_long_lists_of_texts_come_back_in_order(client: AsyncClient) -> None:
    texts = [f"text {i}" for i in range(700)]
    result = await client.embed(texts)
    np.testing.assert_array_equal(result.vectors, np.stack([vector_of(text) for text in texts]))


@pytest.mark.parametrize("script", [["", "break"], ["end", "", "break"], ["refuse", "", "refuse"]])
async def test_a_stream_that_breaks_loses_nothing_and_acknowledges_nothing_twice(
    client: AsyncClient, server: FakeServer, script: list[str]
) -> None:
    server.stream_script.extend(script)
    batches = client.upsert_many("docs", records(95), batch_rows=10, window=3)
    acknowledged = [id_ async for batch in batches for id_ in batch.ids]
    assert sorted(acknowledged) == sorted(f"r{i}" for i in range(95))
    assert sorted(server.rows) == sorted(acknowledged)


async def test_rows_may_come_from_an_asynchronous_source(
    client: AsyncClient, server: FakeServer
) -> None:
    async def source() -> AsyncIterator[Record]:
        for record in records(25):
            yield record

    batches = [batch async for batch in client.upsert_many("docs", source(), batch_rows=10)]
    assert [batch.start for batch in batches] == [0, 10, 20]
    assert len(server.rows) == 25


async def test_a_request_that_fails_for_good_ends_the_upsert(
    client: AsyncClient, server: FakeServer
) -> None:
    server.stream_script.append("fail")
    with pytest.raises(NotFound, match="UpsertStream: fail"):
        await client.upsert("docs", records(600))


async def test_a_stream_that_says_nothing_ends_at_the_deadline(
    client: AsyncClient, server: FakeServer
) -> None:
    server.stream_script.append("mute")
    with pytest.raises(DeadlineExceeded, match="no answer within"):
        await client.upsert("docs", records(600), timeout_s=0.1)


async def test_calls_run_side_by_side(client: AsyncClient) -> None:
    results = await asyncio.gather(*(client.search("docs", f"q{i}") for i in range(20)))
    assert [result.hits[0].id for result in results] == [f"q{i}" for i in range(20)]


async def test_rows_are_scanned_read_and_deleted(client: AsyncClient) -> None:
    await client.upsert("docs", records(25))
    assert len([row async for row in client.scan("docs", page_size=10)]) == 25
    assert (await client.get("docs", ["r1", "nope"])).missing_ids == ("nope",)
    assert await client.delete("docs", ["r1"]) == 1


async def test_many_ids_go_in_several_requests(client: AsyncClient, server: FakeServer) -> None:
    await client.upsert("docs", records(1100))
    ids = [f"r{i}" for i in range(1200)]
    found = await client.get("docs", ids)
    assert [row.id for row in found.rows] == ids[:1100]
    assert found.missing_ids == tuple(ids[1100:])
    assert await client.delete("docs", ids) == 1100
    assert server.asked_ids == [1024, 176] * 2


async def test_what_is_too_large_for_any_message_is_refused_before_it_is_sent(
    client: AsyncClient, server: FakeServer
) -> None:
    huge = "x" * (MESSAGE_BYTES + 1)
    with pytest.raises(InvalidArgument, match=r"^texts\[0\]: has "):
        await client.embed([huge])
    assert server.calls == []


@pytest.mark.slow
async def test_a_request_that_is_too_large_as_a_whole_is_refused_before_it_is_sent(
    client: AsyncClient, server: FakeServer
) -> None:
    huge = "x" * (MESSAGE_BYTES + 1)
    with pytest.raises(InvalidArgument, match=r"^request: has "):
        await client.count(huge)
    with pytest.raises(InvalidArgument, match=r"^request: has "):
        await anext(client.upsert_many(huge, records(1)))
    assert server.stream_requests == []


def test_both_clients_offer_the_same_methods() -> None:
    from vecserve_client import Client  # noqa: PLC0415

    def names(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert names(Client) == names(AsyncClient)


async def test_a_closed_client_says_so(client: AsyncClient) -> None:
    await client.close()
    with pytest.raises(Cancelled, match="Count: the client is closed"):
        await client.count("docs")
    with pytest.raises(Cancelled, match="UpsertStream: the client is closed"):
        async for _ in client.upsert_many("docs", records(3)):
            pass

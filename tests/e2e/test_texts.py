"""Stored texts that come back, unchanged rows, and streams that end well, through a real server."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

from tests.e2e.server_process import ServerProcess
from tests.e2e.stubs import TIMEOUT_S, Stubs
from vecserve.v1 import index_pb2, search_pb2
from vecserve_client import AsyncClient, Client, EmbedOptions, Fields, Record

TEXTS = {"bike": "A red bicycle.", "car": "An electric car", "apple": "Green apples, 1 kg!"}


@pytest.fixture(scope="module")
def docs(server: ServerProcess) -> Iterator[Client]:
    """A collection of three texts and a vector."""
    with Client(target=server.target, deadline_s=30.0) as client:
        client.create_collection("docs", fields=Fields(types={"kind": "keyword"}))
        rows = [Record(id=key, text=text, payload={"kind": "thing"}) for key, text in TEXTS.items()]
        client.upsert("docs", [*rows, Record(id="bare", vector=np.ones(384, np.float32))])
        yield client


def upsert_stream_calls(server: ServerProcess) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
        found = re.findall(
            r'^vecserve_requests_total\{code="(\w+)",method="[^"]*/UpsertStream"\} (\S+)$',
            reply.read().decode(),
            re.MULTILINE,
        )
    return {code: float(count) for code, count in found}


async def test_the_text_of_a_row_comes_back_where_it_is_asked_for(
    server: ServerProcess, docs: Client
) -> None:
    expected = {**TEXTS, "bare": None}
    ids = list(expected)
    assert {row.id: row.text for row in docs.get("docs", ids, with_text=True).rows} == expected
    assert {row.id: row.text for row in docs.scan("docs", with_text=True)} == expected
    found = docs.search("docs", "fruit", with_text=True)
    assert {hit.id: hit.text for hit in found.hits} == expected
    (batch,) = docs.search_batch("docs", ["fruit"], with_text=True, group_by="kind")
    assert [hit.text for hit in batch.hits] == [TEXTS["apple"]]
    voted = docs.classify("docs", "fruit", label_field="kind", with_text=True)
    assert {hit.id: hit.text for hit in voted.neighbours} == TEXTS
    async with AsyncClient(target=server.target) as client:
        assert {r.id: r.text async for r in client.scan("docs", with_text=True)} == expected
        assert (await client.search("docs", "fruit", k=1, with_text=True)).hits[0].text
    rows = [*docs.get("docs", ids).rows, *docs.scan("docs")]
    hits = [
        *docs.search("docs", "fruit").hits,
        *docs.classify("docs", "fruit", label_field="kind").neighbours,
    ]
    assert {row.text for row in rows} == {hit.text for hit in hits} == {None}


def test_a_collection_that_discards_texts_has_none_to_give(docs: Client) -> None:
    docs.create_collection("discards", keep_text=False)
    docs.upsert("discards", [Record(id="a", text="a red car")])
    assert docs.search("discards", "car", with_text=True).hits[0].text is None
    docs.drop_collection("discards")


def test_a_page_of_long_texts_is_short(docs: Client, stubs: Stubs) -> None:
    docs.create_collection("large")
    ids = [f"r{n}" for n in range(4)]
    docs.upsert("large", [Record(id=row_id, text="x" * 1_000_000) for row_id in ids])
    request = index_pb2.ScanRequest(collection="large", page_size=4, with_text=True)
    first = stubs.index.Scan(request, timeout=TIMEOUT_S)
    assert (len(first.rows), bool(first.next_page_token)) == (3, True)
    scanned = [row.id for row in docs.scan("large", with_text=True, page_size=100)]
    assert sorted(scanned) == ids
    docs.drop_collection("large")


def test_unchanged_rows_are_neither_embedded_nor_written(docs: Client) -> None:
    docs.create_collection("same")
    vector = np.ones(384, np.float32)
    rows = [
        Record(id="a", text="a red car", payload={"n": 1, "more": {"x": 1, "y": 2}}),
        Record(id="b", text="a green apple"),
        Record(id="v", vector=vector),
    ]
    assert docs.upsert("same", rows).seqs == (1, 2, 3)
    again = docs.upsert("same", rows, skip_unchanged=True)
    assert (again.seqs, again.unchanged) == ((1, 2, 3), frozenset({0, 1, 2}))
    assert not again.errors
    assert again.timings[0].encode_us == 0
    assert docs.get_collection("same").last_seq == 3
    reordered = Record(id="a", text="a red car", payload={"more": {"y": 2, "x": 1}, "n": 1})
    assert docs.upsert("same", [reordered], skip_unchanged=True).unchanged == frozenset({0})
    changed = [
        Record(id="a", text="a red car", payload={"n": True, "more": {"x": 1, "y": 2}}),
        Record(id="b", text="a green apple!"),
        Record(id="v", vector=-vector),
        Record(id="new", text="new"),
    ]
    after = docs.upsert("same", changed, skip_unchanged=True)
    assert (after.seqs, after.unchanged) == ((4, 5, 6, 7), frozenset())
    docs.drop_collection("same")


def test_a_row_is_only_unchanged_if_nothing_else_is_asked_of_it(docs: Client) -> None:
    docs.create_collection("asked")
    row = Record(id="a", text="a red car")
    docs.upsert("asked", [row])
    prompted = docs.upsert(
        "asked", [row], options=EmbedOptions(prompt_text="query: "), skip_unchanged=True
    )
    assert prompted.unchanged == frozenset()
    docs.upsert("asked", [row])
    wrong = docs.upsert(
        "asked", [Record(id="a", text="a red car", expected_seq=1)], skip_unchanged=True
    )
    assert "is 1, but the row has seq 3" in str(wrong.errors[0])
    right = docs.upsert(
        "asked", [Record(id="a", text="a red car", expected_seq=3)], skip_unchanged=True
    )
    assert (right.seqs, right.unchanged) == ((3,), frozenset({0}))
    # The last one wins where an id comes twice.
    twice = [Record(id="a", text="another car"), row]
    assert docs.upsert("asked", twice, skip_unchanged=True).unchanged == frozenset()
    assert docs.get("asked", ["a"], with_text=True).rows[0].text == "a red car"
    docs.drop_collection("asked")


def test_rows_that_keep_no_text_are_compared_by_their_vectors(docs: Client) -> None:
    docs.create_collection("unkept", keep_text=False)
    rows = [Record(id=f"r{n}", text=f"text number {n}") for n in range(40)]
    first = docs.upsert("unkept", rows)
    again = docs.upsert("unkept", rows, skip_unchanged=True)
    assert (again.seqs, len(again.unchanged)) == (first.seqs, 40)
    docs.drop_collection("unkept")


async def test_a_stream_that_was_answered_counts_as_done(
    server: ServerProcess, docs: Client
) -> None:
    docs.create_collection("streamed")
    rows = [Record(id=f"r{n}", vector=np.ones(384, np.float32)) for n in range(600)]
    before = upsert_stream_calls(server)
    assert sum(len(batch.ids) for batch in docs.upsert_many("streamed", rows)) == 600
    async with AsyncClient(target=server.target) as client:
        batches = [batch async for batch in client.upsert_many("streamed", rows)]
        assert len(batches) == 3
    after = upsert_stream_calls(server)
    assert after.get("OK", 0) == before.get("OK", 0) + 2
    assert after.get("CANCELLED", 0) == before.get("CANCELLED", 0)
    docs.drop_collection("streamed")


def test_conditions_may_be_written_as_dictionaries(docs: Client) -> None:
    assert docs.count("docs", where={"kind": "thing"}) == 3
    assert docs.count("docs", where={"kind": {"exists": False}}) == 1
    assert docs.search("docs", "x", where={"not": {"kind": ["thing"]}}).hits[0].id == "bare"
    assert docs.delete("docs", where={"kind": "x"}) == 0


def test_the_options_of_a_request_are_in_the_contract(stubs: Stubs, docs: Client) -> None:
    assert docs.count("docs")
    request = search_pb2.SearchRequest(collection="docs")
    request.query.text = "fruit"
    request.options.with_text = True
    hits = stubs.search.Search(request, timeout=TIMEOUT_S).hits
    assert {hit.id: hit.text for hit in hits if hit.HasField("text")} == TEXTS

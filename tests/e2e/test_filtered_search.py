"""Filters, words, grouping and compare-and-set through a real server and both clients."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from tests.e2e.server_process import Launch, ServerProcess
from tests.e2e.stubs import TIMEOUT_S, Stubs
from vecserve.v1 import index_pb2
from vecserve.v1.search_pb2 import Filter
from vecserve_client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    Fields,
    InvalidArgument,
    NotFound,
    Query,
    Record,
    WeightedSum,
    filters,
)

FIELDS = Fields(
    types={
        "title": "text",
        "brand": "keyword",
        "price": "number",
        "in_stock": "boolean",
        "released": "datetime",
    },
    stemming="porter",
)
JUST_AFTER = "2024-05-01T08:00:00.1Z"
PRODUCTS = {
    "bike": ("A red bicycle", "Acme", 300, True, "2024-05-01T10:00:00+02:00"),
    "trike": ("Tricycle for children", "Acme", 99.5, False, "2023-12-31"),
    "car": ("An electric car", "Volt", 30000, True, "2024-01-01T00:00:00Z"),
    "apple": ("Green apples, 1 kg", "Farm", 3, True, None),
}


def record(key: str) -> Record:
    names = ("title", "brand", "price", "in_stock", "released")
    payload = dict(zip(names, PRODUCTS[key], strict=True))
    return Record(id=key, text=str(payload["title"]), payload=payload)


@pytest.fixture(scope="module")
def shop(server: ServerProcess) -> Iterator[Client]:
    with Client(target=server.target, deadline_s=30.0) as client:
        client.create_collection("shop", fields=FIELDS)
        client.upsert("shop", [record(key) for key in PRODUCTS])
        yield client


def test_a_collection_tells_what_it_declares(shop: Client) -> None:
    assert shop.get_collection("shop").fields == FIELDS


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (filters.equals("brand", "Acme"), {"bike", "trike"}),
        (filters.one_of("price", 3.0, 300, "99.5"), {"bike", "apple"}),
        (filters.between("price", gt=3, lte=300), {"bike", "trike"}),
        (filters.between("released", gte="2024-01-01", lt=JUST_AFTER), {"bike", "car"}),
        (filters.equals("in_stock", True), {"bike", "car", "apple"}),
        (filters.equals("in_stock", 1), set()),
        (filters.equals("released", None), {"apple"}),
        (filters.negate(filters.exists("colour")), set(PRODUCTS)),
        (filters.prefix("title", "A"), {"bike", "car"}),
        (
            filters.all_of(
                filters.any_of(filters.equals("brand", "Volt"), filters.equals("brand", "Acme")),
                filters.negate(filters.equals("in_stock", False)),
            ),
            {"bike", "car"},
        ),
    ],
    ids=range(10),
)  # fmt: skip
def test_a_filter_narrows_search_scan_and_count(
    shop: Client, where: Filter, expected: set[str]
) -> None:
    assert shop.count("shop", where=where) == len(expected)
    scanned = [row.id for row in shop.scan("shop", where=where, page_size=1)]
    assert set(scanned) == expected
    assert scanned == [key for key in PRODUCTS if key in expected]
    for mode in ("dense", "hybrid"):
        found = shop.search("shop", "something to ride", where=where, mode=mode)
        assert {hit.id for hit in found.hits} == expected


def test_words_find_what_vectors_would_not(shop: Client) -> None:
    by_words = shop.search("shop", "apple 1 KG", mode="lexical", explain=True)
    assert [hit.id for hit in by_words.hits] == ["apple"]
    assert by_words.hits[0].score > 0
    assert by_words.explain is not None
    assert by_words.explain["lexical"]["terms"] == ["apple", "1", "kg"]
    assert by_words.timings.encode_us == 0
    both = shop.search(
        "shop", "children", mode="hybrid", k=2, fusion=WeightedSum(1, 1), explain=True
    )
    assert both.hits[0].id == "trike"
    assert both.explain is not None
    parts = both.explain["hits"][0]
    assert parts["dense"]["rank"] == parts["lexical"]["rank"] == 1
    assert both.explain["fusion"] == {"method": "weighted_sum", "dense": 1.0, "lexical": 1.0}
    vector = shop.embed(["car"]).vectors[0]
    own = Query(vector=vector, words="apples")
    assert {hit.id for hit in shop.search("shop", own, mode="hybrid", k=2).hits} == {"car", "apple"}


def test_a_batch_takes_the_same_options_and_a_bad_query_fails_alone(shop: Client) -> None:
    good, bad = shop.search_batch(
        "shop",
        ["red", Query(row_ids=("bike",))],
        mode="lexical",
        explain=True,
        include_payload=False,
    )
    assert [hit.id for hit in good.hits] == ["bike"]
    assert good.hits[0].payload is None
    assert good.explain is not None
    assert isinstance(bad.error, InvalidArgument)
    assert "queries[1].lexical_text: is empty, and so is text" in str(bad.error)


def test_hits_are_grouped_and_recommended(shop: Client) -> None:
    grouped = shop.search("shop", "a red bike to ride", group_by="brand")
    brands = [hit.payload["brand"] for hit in grouped.hits if hit.payload]
    assert sorted(brands) == ["Acme", "Farm", "Volt"]
    assert grouped.hits[0].id == "bike"
    alike = shop.search("shop", Query(row_ids=("bike", "trike")))
    assert {hit.id for hit in alike.hits} == {"car", "apple"}
    with pytest.raises(NotFound, match=r"query\.row_ids: 'gone' does not exist"):
        shop.search("shop", Query(row_ids=("bike", "gone")))


def test_a_dense_answer_explains_itself(shop: Client) -> None:
    where = filters.equals("brand", "Acme")
    found = shop.search("shop", "bike", where=where, exact=True, explain=True, min_score=-1)
    assert found.explain is not None
    assert found.explain["mode"] == "dense"
    assert found.explain["filter"]["matched_rows"] == 2
    assert found.explain["dense"]["allowed_rows"] == 2
    assert [hit["id"] for hit in found.explain["hits"]] == [hit.id for hit in found.hits]


def test_what_a_collection_has_no_words_for_is_refused(shop: Client) -> None:
    shop.create_collection("wordless")
    with pytest.raises(FailedPrecondition, match="declares no field of type TEXT"):
        shop.search("wordless", "x", mode="lexical")
    with pytest.raises(InvalidArgument, match="lexical_text: is not allowed in mode DENSE"):
        shop.search("shop", Query(text="x", words="y"))
    with pytest.raises(InvalidArgument, match="lexical_text: has 5000 bytes; the limit is 4096"):
        shop.search("shop", Query(text="x", words="y" * 5000), mode="hybrid")
    shop.drop_collection("wordless")


async def test_writes_on_condition(server: ServerProcess, shop: Client) -> None:
    shop.create_collection("cas")
    vector = np.ones(384, np.float32)

    def write(row_id: str, expected: int | None) -> Record:
        return Record(id=row_id, vector=vector, expected_seq=expected)

    first = shop.upsert("cas", [write("a", 0), write("b", None), write("c", 7)])
    assert first.seqs == (1, 2, 0)
    assert isinstance(first.errors[2], FailedPrecondition)
    assert "rows[2].expected_seq: is 7, but there is no such row" in str(first.errors[2])
    second = shop.upsert("cas", [write("a", 0), write("b", 2)])
    assert second.seqs == (0, 3)
    assert "rows[0].expected_seq: is 0, but the row has seq 1" in str(second.errors[0])
    async with AsyncClient(target=server.target) as client:
        with pytest.raises(FailedPrecondition, match=r"id 'b'.*has seq 3.*1 are deleted"):
            await client.delete("cas", ["a", "b"], expected_seqs={"a": 1, "b": 2})
        assert await client.delete("cas", ["b"], expected_seqs={"b": 3}) == 1
    assert shop.count("cas") == 0
    shop.drop_collection("cas")


def test_a_filter_deletes_all_that_matches(shop: Client) -> None:
    shop.create_collection("many")
    vector = np.ones(384, np.float32)
    rows = [Record(id=f"r{n}", vector=vector, payload={"n": n}) for n in range(2500)]
    shop.upsert("many", rows)
    assert shop.delete("many", where=filters.between("n", gte=100)) == 2400
    assert shop.delete("many", where=filters.between("n", gte=100)) == 0
    assert shop.count("many") == shop.get_collection("many").row_count == 100
    assert len(shop.search("many", vector, k=200).hits) == 100
    with pytest.raises(InvalidArgument, match="filter: does not go with ids"):
        shop.delete("many", ["r1"], where=filters.exists("n"))
    shop.drop_collection("many")


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"id": "bike", "seq": 0}, "expected_seqs[0].seq: is 0; it must be above 0"),
        ({"id": "car", "seq": 1}, "expected_seqs: 'car' is not among ids"),
    ],
)
def test_an_expected_seq_that_makes_no_sense_is_refused(
    shop: Client, stubs: Stubs, expected: dict[str, object], problem: str
) -> None:
    request = index_pb2.DeleteRequest(collection="shop", ids=["bike"])
    request.expected_seqs.add(**expected)
    with pytest.raises(grpc.RpcError) as raised:
        stubs.index.Delete(request, timeout=TIMEOUT_S)
    assert isinstance(raised.value, grpc.Call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == problem
    assert shop.count("shop") == len(PRODUCTS)


def test_a_scan_goes_on_only_with_its_own_filter(shop: Client, stubs: Stubs) -> None:
    first = index_pb2.ScanRequest(collection="shop", page_size=1)
    token = stubs.index.Scan(first, timeout=TIMEOUT_S).next_page_token
    second = index_pb2.ScanRequest(collection="shop", page_token=token)
    second.filter.CopyFrom(filters.exists("n"))
    with pytest.raises(grpc.RpcError, match="page_token"):
        stubs.index.Scan(second, timeout=TIMEOUT_S)


def test_a_read_is_bounded_in_time_and_a_restart_keeps_the_declaration(launch: Launch) -> None:
    server = launch(limits_max_read_s=0.001)
    vector = np.ones(384, np.float32)
    with Client(target=server.target, deadline_s=30.0) as client:
        client.create_collection("slow", fields=FIELDS)
        rows = [
            Record(id=f"r{n}", vector=vector, payload={"title": f"word {n}"}) for n in range(9000)
        ]
        client.upsert("slow", rows)
        with pytest.raises(DeadlineExceeded, match=r"longer than limits\.max_read_s = 0\.001"):
            client.count("slow", where=filters.prefix("nothing", "x"))
    assert server.stop() == 0
    again = launch(name="again")
    with Client(target=again.target, deadline_s=30.0) as client:
        assert client.get_collection("slow").fields == FIELDS
        assert client.count("slow", where=filters.prefix("title", "word 899")) == 11
        assert client.search("slow", "8999", mode="lexical").hits[0].id == "r8999"

"""What the client takes beside its own types, and what it says about the rest."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.client.fake_server import FakeServer
from vecserve.v1.search_pb2 import Filter
from vecserve_client import (
    Classification,
    Client,
    Fields,
    InvalidArgument,
    ReciprocalRank,
    Timings,
    filters,
)
from vecserve_client.conditions import as_filter

UTC = datetime.UTC


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"brand": "Xerox"}, filters.equals("brand", "Xerox")),
        ({"a.b": None}, filters.equals("a.b", None)),
        ({"n": np.int64(3)}, filters.equals("n", 3)),
        ({"brand": ["a", "b"]}, filters.one_of("brand", "a", "b")),
        ({"price": {"gte": 10, "lt": 20}}, filters.between("price", gte=10, lt=20)),
        ({"day": {"gt": datetime.date(2024, 1, 2)}}, filters.between("day", gt="2024-01-02")),
        (
            {"day": {"lte": datetime.datetime(2024, 1, 2, 3, tzinfo=UTC)}},
            filters.between("day", lte="2024-01-02T03:00:00+00:00"),
        ),
        (
            {"day": {"lte": datetime.datetime(2024, 1, 2, 3)}},
            filters.between("day", lte="2024-01-02T03:00:00+00:00"),
        ),
        ({"title": {"prefix": "Red"}}, filters.prefix("title", "Red")),
        ({"colour": {"exists": False}}, filters.exists("colour", there=False)),
        ({"brand": {"not": "Acme"}}, filters.negate(filters.equals("brand", "Acme"))),
        ({"brand": {"one_of": ["a"]}}, filters.one_of("brand", "a")),
        (
            {"a": 1, "b": {"equals": True}},
            filters.all_of(filters.equals("a", 1), filters.equals("b", True)),
        ),
        (
            {"n": {"gt": 1, "exists": True}},
            filters.all_of(filters.between("n", gt=1), filters.exists("n")),
        ),
        (
            {"any_of": [{"a": 1}, {"not": {"b": 2}}, filters.exists("c")]},
            filters.any_of(
                filters.equals("a", 1),
                filters.negate(filters.equals("b", 2)),
                filters.exists("c"),
            ),
        ),
    ],
    ids=str,
)
def test_a_dictionary_is_a_filter(where: Mapping[str, Any], expected: Filter) -> None:
    assert as_filter(where) == expected


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("brand=Xerox", "where: is a str; write {"),
        ([("brand", "Xerox")], "where: is a list; write {"),
        ({}, "where: is empty; leave it out for all rows"),
        ({1: 2}, "where: 1 is not the name of a field"),
        ({"price": {"less": 3}}, r"where\['price'\]: 'less' is no operator; there are equals"),
        ({"price": {}}, r"where\['price'\]: has no operator"),
        ({"price": {"gt": None}}, r"where\['price'\]\['gt'\]: None is no bound"),
        ({"price": {"gt": True}}, "is no bound"),
        ({"price": float("nan")}, r"where\['price'\]: nan is no JSON scalar"),
        ({"price": ...}, "is no JSON scalar"),
        ({"price": [[1]]}, "is no JSON scalar"),
        ({"price": {"exists": 1}}, "must be True or False"),
        ({"price": {"prefix": 1}}, "must be a string"),
        ({"price": {"one_of": "abc"}}, "must be a list of values"),
        ({"any_of": {"a": 1}}, r"where\['any_of'\]: must be a list of conditions"),
        ({"any_of": [None]}, r"where\['any_of'\]\[0\]: is None"),
        ({"not": "x"}, r"where\['not'\]: is a str"),
    ],
    ids=str,
)
def test_what_is_no_filter_is_answered_with_the_right_form(where: Any, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        as_filter(where)


def test_a_filter_without_end_is_refused() -> None:
    where: dict[str, Any] = {"a": 1}
    for _ in range(100):
        where = {"not": where}
    with pytest.raises(InvalidArgument, match="nested too deep"):
        as_filter(where)


def test_fields_may_be_a_dictionary(client: Client) -> None:
    made = client.create_collection("docs", fields={"doc": "keyword"})
    assert made.fields == Fields(types={"doc": "keyword"})


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"doc": "string"}, "'doc' has the type 'string', must be one of keyword, text"),
        ({"types": {"doc": "keyword"}}, 'fields: \'types\': .* write {"brand": "keyword"'),
        (["doc"], 'fields: is a list; write {"brand": "keyword"'),
        (Fields(types=["doc"]), "fields: is a list"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_declares_no_fields_is_answered_with_the_right_form(
    client: Client, fields: Any, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        client.create_collection("docs", fields=fields)


def test_rows_may_be_dictionaries(client: Client, server: FakeServer) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": "one"},
        {"id": "b", "text": "two", "payload": {"n": 1}},
    ]
    assert client.upsert("docs", rows).seqs == (1, 2)
    assert server.rows == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"id": "a", "txt": "x"}], "record: has no 'txt', only id, text"),
        ([{"text": "x"}], "record: .*'id'.*write Record"),
        (["text"], "record: is a str; write Record"),
        ([{"id": 1, "text": "x"}], "record 1: id and text are strings"),
        ([{"id": "a", "text": 1}], "record 'a': id and text are strings"),
        ([{"id": "a", "text": "x", "payload": []}], "payload is a dictionary"),
        ({"id": "a", "text": "x"}, "rows: is a single row"),
        ([{"id": "a", "vector": "x"}], "is no vector"),
    ],
    ids=str,
)
def test_what_is_no_row_is_answered_with_the_right_form(
    client: Client, rows: Any, problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        client.upsert("docs", rows)


def test_a_string_is_not_a_list_of_its_characters(client: Client, server: FakeServer) -> None:
    text: Any = "abc"
    for call in (
        lambda: client.embed(text),
        lambda: client.get("docs", text),
        lambda: client.delete("docs", text),
        lambda: client.search_batch("docs", text),
    ):
        with pytest.raises(InvalidArgument, match="is a str; a list of them is asked for"):
            call()
    assert server.calls == []


def test_an_option_that_there_is_not_is_not_passed_over(client: Client) -> None:
    options: Any = {"filter": {"brand": "Xerox"}}
    with pytest.raises(InvalidArgument, match=r"search: no option 'filter'; there are .*where"):
        client.search("docs", "q", **options)
    with pytest.raises(InvalidArgument, match="options: has no 'dim', only prompt_name"):
        client.embed(["a"], options={"dim": 3})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"k": "5"}, "k: '5', must be a whole number"),
        ({"k": 1.5}, "k: 1.5, must be a whole number"),
        ({"k": 0}, "k: 0, must be a whole number, 1 or more"),
        ({"k": 2**40}, "k: 1099511627776 has the type int, which does not fit"),
        ({"min_score": "a"}, "min_score: 'a' has the type str"),
        ({"group_by": 5}, "group_by: 5 has the type int"),
        ({"exact": "yes"}, "exact: 'yes' has the type str"),
        ({"fusion": "rrf"}, r"fusion: is a str; write ReciprocalRank\("),
        ({"fusion": ReciprocalRank(lexical="2")}, "fusion.lexical_weight: '2' has the type str"),  # type: ignore[arg-type]
        ({"timeout_s": "soon"}, "timeout_s: 'soon', must be a number of more than 0"),
    ],
)
def test_an_option_of_a_wrong_type_is_named(
    client: Client, server: FakeServer, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem):
        client.search("docs", "q", **options)
    with pytest.raises(InvalidArgument, match=problem):
        client.search_batch("docs", ["q"], **options)
    assert server.calls == []


@pytest.mark.parametrize("seq", ["a", -1, 1.5])
def test_an_expected_seq_of_a_wrong_type_is_named(client: Client, seq: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"record '1': expected_seq: {seq!r} has the type"):
        client.upsert("docs", [{"id": "1", "text": "x", "expected_seq": seq}])


def test_a_classification_names_what_does_not_fit(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="label_field: 5 has the type int"):
        client.classify("docs", "q", label_field=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="k: 0, must be a whole number"):
        client.classify("docs", "q", label_field="kind", k=0)


def test_a_label_that_is_none_is_out_of_scope() -> None:
    for label, out_of_scope in ((None, True), ("a", False), ("", False)):
        found = Classification(label=label, scores=(), neighbours=(), timings=Timings())
        assert found.out_of_scope is out_of_scope


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.count(5),
        lambda client: client.get(5, ["a"]),
        lambda client: client.upsert(5, [{"id": "1", "text": "x"}]),
        lambda client: client.create_collection(5),
        lambda client: client.get_collection(5),
        lambda client: client.admin.verify_collection(5),
    ],
)
def test_a_name_of_a_wrong_type_is_named(
    client: Client, server: FakeServer, call: Callable[[Client], Any]
) -> None:
    with pytest.raises(InvalidArgument, match=r"(collection|name): 5 has the type int"):
        call(client)
    assert server.calls == []

"""Conditions as they are typed."""

from __future__ import annotations

import pytest

from vecserve.v1.search_pb2 import Filter
from vecserve_client.filters import Scalar, all_of, between, equals, exists, negate, prefix
from vecserve_client.types import FieldType
from vecserve_server.cli.conditions import read_conditions
from vecserve_server.cli.exits import UsageProblem


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("brand=Acme", equals("brand", "Acme")),
        ("brand = Acme & Sons", equals("brand", "Acme & Sons")),
        ("n=3", equals("n", 3)),
        ('n="3"', equals("n", "3")),
        ("n=true", equals("n", True)),
        ("n=null", equals("n", None)),
        ("n=[1]", equals("n", "[1]")),
        ("n=", equals("n", "")),
        ("a.b!=1.5", negate(equals("a.b", 1.5))),
        ("x=a=b", equals("x", "a=b")),
        ("price<20", between("price", lt="20")),
        ("price>=-2", between("price", gte="-2")),
        ("day<=2024-01-01", between("day", lte="2024-01-01")),
        ("title^=Red", prefix("title", "Red")),
        ("colour", exists("colour")),
        ("!colour", exists("colour", there=False)),
    ],
)
def test_a_condition_is_read(typed: str, expected: Filter) -> None:
    assert read_conditions([typed]).filter == expected


def test_several_conditions_all_hold() -> None:
    assert read_conditions([]).filter is None
    assert read_conditions(["a=1", "b"]).filter == all_of(equals("a", 1), exists("b"))


@pytest.mark.parametrize(
    ("typed", "kind", "expected"),
    [
        ("f=2020", "keyword", "2020"),
        ("f=02134", "keyword", "02134"),
        ("f=true", "text", "true"),
        ("f=null", "keyword", None),
        ('f="2020"', "number", "2020"),
        ("f=007", "integer", 7),
        ("f=1e3", "number", 1000.0),
        ("f=yes", "boolean", True),
        ('f="soon"', "datetime", "soon"),
    ],
)
def test_a_value_takes_the_declared_type_of_its_field(
    typed: str, kind: FieldType, expected: Scalar
) -> None:
    assert read_conditions([typed], {"f": kind}).filter == equals("f", expected)


@pytest.mark.parametrize(
    ("typed", "problem"),
    [("f=cheap", "f is declared as number: 'cheap' is not a number"), ("f=", "there is no value")],
)
def test_a_value_of_another_type_is_a_usage_problem(typed: str, problem: str) -> None:
    with pytest.raises(UsageProblem, match=problem):
        read_conditions([typed], {"f": "number"})


@pytest.mark.parametrize("sign", ["=", "!=", "<", ">="])
@pytest.mark.parametrize("kind", ["integer", "number", "datetime"])
def test_every_test_of_a_declared_field_needs_a_value_of_its_type(
    sign: str, kind: FieldType
) -> None:
    other = "2024-03-10" if kind == "integer" else "2024" if kind == "datetime" else "cheap"
    with pytest.raises(UsageProblem, match=f"f is declared as {kind}: '{other}' is not an? "):
        read_conditions([f"f{sign}{other}"], {"f": kind})


def test_dates_are_equal_as_instants() -> None:
    day = "2024-03-10T02:30:00"
    assert read_conditions([f"f={day}"], {"f": "datetime"}).filter == between("f", gte=day, lte=day)


@pytest.mark.parametrize(
    ("typed", "needs"),
    [
        ("f=3", "number"),
        ("f=true", "boolean"),
        ("f=x", "string"),
        ("f^=x", "string"),
        ("f=null", "value"),
        ("f<2024-03-10", "date"),
        ("f<3", "number"),
        ("f!=3", "value"),
    ],
)
def test_a_condition_knows_what_its_field_must_hold(typed: str, needs: str) -> None:
    assert read_conditions([typed]).each[0].needs == needs


def test_a_bound_that_is_neither_number_nor_date_is_a_usage_problem() -> None:
    with pytest.raises(UsageProblem, match="'cheap' is neither a number nor an RFC 3339 date"):
        read_conditions(["price<cheap"])


@pytest.mark.parametrize("typed", ["", "!", "=3", "^=x", "a!", "a^b"])
def test_what_is_no_condition_is_a_usage_problem(typed: str) -> None:
    with pytest.raises(UsageProblem, match="is no condition"):
        read_conditions([typed])

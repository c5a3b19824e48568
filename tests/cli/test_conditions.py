"""Conditions as they are typed."""

from __future__ import annotations

import pytest

from vecserve.v1.search_pb2 import Filter
from vecserve_client.filters import all_of, between, equals, exists, negate, prefix
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
    assert read_conditions([typed]) == expected


def test_several_conditions_all_hold() -> None:
    assert read_conditions([]) is None
    assert read_conditions(["a=1", "b"]) == all_of(equals("a", 1), exists("b"))


@pytest.mark.parametrize("typed", ["", "!", "=3", "^=x", "a!", "a^b"])
def test_what_is_no_condition_is_a_usage_problem(typed: str) -> None:
    with pytest.raises(UsageProblem, match="is no condition"):
        read_conditions([typed])

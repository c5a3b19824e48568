"""Conditions compiled to SQL mean what they mean in plain Python, with indexes and without."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.storage.payloads import CONDITIONS, DECLARED, PAYLOADS, TEXTS, canonical, matches
from vecserve_server.domain.collections import TextAnalysis
from vecserve_server.domain.conditions import (
    MAX_DEPTH,
    MAX_JOINED,
    MAX_SCALARS,
    AllOf,
    AnyOf,
    Bounds,
    Condition,
    InstantIn,
    Not,
    NumberIn,
    OneOf,
    StartsWith,
)
from vecserve_server.domain.instants import instant_sql, parse_instant
from vecserve_server.storage.payloads.declared_fields import declare
from vecserve_server.storage.payloads.filter_sql import (
    Indexed,
    after_all_with_prefix,
    compile_condition,
)

Payload = Mapping[str, Any]


def stored(payloads: list[Payload]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.text_factory = bytes
    connection.execute(
        "CREATE TABLE rows (seq INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL) STRICT"
    )
    for payload in payloads:
        connection.execute("INSERT INTO rows (payload) VALUES (?)", (canonical(payload),))
    return connection


def found(connection: sqlite3.Connection, condition: Condition, indexed: Indexed) -> set[int]:
    where = compile_condition(condition, indexed)
    values = connection.execute(f"SELECT seq, {where.text} FROM rows", where.values).fetchall()
    assert {value for _, value in values} <= {0, 1}, "a test that is NULL would spoil NOT"
    selected = connection.execute(f"SELECT seq FROM rows WHERE {where.text}", where.values)
    seqs = {seq for (seq,) in selected}
    assert {seq for seq, value in values if value} == seqs
    return seqs


@given(st.lists(PAYLOADS, max_size=12), st.lists(CONDITIONS, min_size=1, max_size=6))
@example([{"a": "red\0"}, {"a": "red"}], [OneOf(field="a", values=("red",))])
@example([{"a": True}, {"a": 1}, {"a": "1"}, {"a": 1.0}], [OneOf(field="a", values=(1,))])
@settings(max_examples=60, deadline=None)
def test_a_filter_finds_what_it_means(payloads: list[Payload], conditions: list[Condition]) -> None:
    connection = stored(payloads)
    indexed = declare(connection, DECLARED, TextAnalysis()).indexed
    for condition in conditions:
        expected = {n for n, payload in enumerate(payloads, 1) if matches(condition, payload)}
        assert found(connection, condition, {}) == expected
        assert found(connection, condition, indexed) == expected
    connection.close()


@pytest.mark.parametrize(
    "condition",
    [
        OneOf(field="a", values=("red",)),
        OneOf(field="a", values=("red", "blue")),
        StartsWith(field="a", beginning="re"),
        NumberIn(field="b", bounds=Bounds(gte=1.5, lt=9)),
        OneOf(field="b", values=(3, 4.5)),
        InstantIn(field="n.x", bounds=Bounds(gt=0)),
        OneOf(field="it's", values=(True,)),
        OneOf(field="é ", values=(3,)),
        AllOf(parts=(OneOf(field="a", values=("red",)), Not(part=OneOf(field="z", values=(1,))))),
        AnyOf(parts=(OneOf(field="a", values=("red",)), OneOf(field="é ", values=(3,)))),
    ],
    ids=str,
)
def test_a_declared_field_is_looked_up_in_its_index(condition: Condition) -> None:
    connection = stored([])
    where = compile_condition(condition, declare(connection, DECLARED, TextAnalysis()).indexed)
    statement = f"EXPLAIN QUERY PLAN SELECT seq FROM rows WHERE {where.text}"
    steps = [step.decode() for *_, step in connection.execute(statement, where.values)]
    assert any("USING INDEX rows_field_" in step for step in steps), steps
    assert not any(step.startswith("SCAN rows") for step in steps), steps
    connection.close()


def test_the_largest_filter_is_within_what_sqlite_takes() -> None:
    per_test = MAX_SCALARS // MAX_JOINED
    tests: list[Condition] = [
        OneOf(field=f"f{n}", values=tuple(range(n, n + per_test))) for n in range(MAX_JOINED)
    ]
    condition: Condition = AnyOf(parts=tuple(tests))
    for _ in range(MAX_DEPTH - 2):
        others = (Not(part=OneOf(field="x", values=("y",))),) * 30
        condition = AllOf(parts=(condition, *others))
    dates = InstantIn(field="d", bounds=Bounds(gt=1, gte=2, lt=3, lte=4))
    connection = stored([{"f3": 4}, {"f3": 4, "d": "1970-01-01"}])
    both = AllOf(parts=(condition, *(Not(part=dates),) * (MAX_JOINED - 1)))
    assert found(connection, both, {}) == {1, 2}
    connection.close()


@given(TEXTS.filter(bool), TEXTS)
def test_the_end_of_a_prefix_is_the_end(prefix: str, text: str) -> None:
    quoted = '"' + prefix
    end = after_all_with_prefix(quoted)
    for other in (text, prefix + text):
        inside = quoted.encode() <= f'"{other}'.encode() < end.encode()
        assert inside == other.startswith(prefix)


A_DAY = timedelta(days=1) - timedelta(microseconds=1)
DIGITS = st.text("0123456789", min_size=1, max_size=8)
CLOCKS = ["{:02d}", "{:02d}:{:02d}", "{:02d}:{:02d}:{:02d}"]
NEARLY_DATES = st.builds(
    lambda year, month, day, mark, clock, *numbers_and_ends: (
        f"{year:04d}-{month:02d}-{day:02d}{mark}"
        + clock.format(*numbers_and_ends[:3])
        + "".join(numbers_and_ends[3:])
    ),
    st.integers(0, 9999),
    st.integers(0, 13),
    st.integers(0, 32),
    st.sampled_from(["T", "t", " ", "", "x"]),
    st.sampled_from(CLOCKS),
    st.integers(0, 25),
    st.integers(0, 61),
    st.integers(0, 61),
    st.just("") | DIGITS.map(lambda digits: f".{digits}") | st.sampled_from([".", ".1x", ","]),
    st.sampled_from(["Z", "z", "+00:00", "-00:30", "+23:59", "+24:00", "-1:00", "", "+0100", "Zz",
                     "+01:02:03", "-00:00:00.5", "+01:02:60"]),
)  # fmt: skip


@given(NEARLY_DATES | NEARLY_DATES.map(lambda text: text[:10]) | st.text(max_size=30))
@example("2024-02-29T00:00:00Z")
@example("2024-02-30")
@example("9999-12-31T23:59:59.999999-23:59")
@example("0001-01-01T00:00:00+23:59")
@example("2016-12-31T15:59:60.5-08:00")
@example("2016-12-31T23:58:60Z")
@settings(max_examples=300)
def test_sql_and_python_agree_on_dates(text: str) -> None:
    text = text.replace("\0", "")  # no payload string is handed to it with one
    connection = sqlite3.connect(":memory:")
    (computed,) = connection.execute(f"SELECT {instant_sql('?1')}", (text,)).fetchone()
    connection.close()
    assert computed == parse_instant(text)


def test_instants_are_microseconds_in_utc() -> None:
    assert parse_instant("1970-01-02") == 86_400_000_000
    assert parse_instant("1970-01-01T01:00:00.0000019+01:00") == 1
    assert parse_instant("1969-12-31T23:59:59.999999Z") == -1


@given(
    st.datetimes(timezones=st.none() | st.builds(timezone, st.timedeltas(-A_DAY, A_DAY))),
    st.sampled_from("T "),
    st.sampled_from(["hours", "minutes", "seconds", "milliseconds", "microseconds", "auto"]),
)
def test_all_that_isoformat_writes_is_an_instant(moment: datetime, mark: str, spec: str) -> None:
    text = moment.isoformat(mark, spec)
    written = datetime.fromisoformat(text)
    if written.tzinfo is None:
        written = written.replace(tzinfo=UTC)
    since = written - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_instant(text) == since // timedelta(microseconds=1)


def test_a_leap_second_is_the_second_after_it() -> None:
    after = parse_instant("2017-01-01T00:00:00Z")
    for text in ("2016-12-31T23:59:60Z", "2016-12-31T15:59:60-08:00", "2016-12-31 23:59:60"):
        assert parse_instant(text) == after
    assert parse_instant("2016-12-31T23:58:60Z") is None
    assert parse_instant("2016-12-31T23:59:60+08:00") is None

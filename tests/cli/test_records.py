"""What a good line is, and what is said about a bad one."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_client import Record
from vecserve_server.cli.records import (
    BadHeader,
    BadLine,
    Fields,
    GoodLine,
    RawLine,
    ReadLine,
    read_csv,
    read_jsonl,
    read_lines,
)

FIELDS = Fields(id="id", text=("title", "body"))

plain = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20
).filter(lambda text: text.strip() == text)
rows = st.lists(
    st.fixed_dictionaries({"id": plain, "title": plain, "body": plain, "colour": plain}),
    unique_by=lambda row: row["id"],
    max_size=20,
)


def jsonl(data: bytes, fields: Fields = FIELDS) -> list[ReadLine]:
    return list(read_jsonl(read_lines(io.BytesIO(data)), fields))


def comma_separated(data: bytes, fields: Fields = FIELDS) -> list[ReadLine]:
    return list(read_csv(read_lines(io.BytesIO(data)), fields))


def expected(values: list[dict[str, Any]]) -> list[Record]:
    return [
        Record(
            id=row["id"],
            text=f"{row['title']}. {row['body']}",
            payload={"colour": row["colour"]},
        )
        for row in values
    ]


def records(lines: list[ReadLine]) -> list[Record]:
    return [line.record for line in lines if isinstance(line, GoodLine)]


@given(rows, st.booleans())
def test_every_jsonl_object_becomes_its_record(values: list[dict[str, Any]], escaped: bool) -> None:
    data = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in values).encode()
    lines = jsonl(data)
    assert records(lines) == expected(values)
    assert [line.number for line in lines] == list(range(1, len(values) + 1))


@given(rows)
def test_every_csv_row_becomes_its_record(values: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=["id", "title", "body", "colour"])
    writer.writeheader()
    writer.writerows(values)
    lines = comma_separated(stream.getvalue().encode())
    assert records(lines) == expected(values)
    assert [line.number for line in lines] == list(range(2, len(values) + 2))


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_readers_fail(data: bytes, as_csv: bool) -> None:
    lines = comma_separated(b"id,title,body\n" + data) if as_csv else jsonl(data)
    for line in lines:
        if isinstance(line, GoodLine):
            assert line.record.id
            assert line.record.text
        else:
            assert line.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"id": "a", "title": NaN}', "NaN is not a JSON value"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"title": "t"}', "no id"),
        (b'{"id": "", "title": "t"}', "no id"),
        (b'{"id": true, "title": "t"}', "no id"),
        (b'{"id": "a"}', "no text"),
        (b'{"id": "a", "title": "  ", "body": null}', "no text"),
        (b'{"id": "a", "title": ["t"]}', "no text"),
        (b'{"id": "a", "title": "\xff"}', "not UTF-8 at byte 23"),
        (b'{"id": "a", "title": "\\ud800"}', "not UTF-8"),
        (b'{"id": "first", "title": "t"}', "id 'first' stands on line 1 already"),
    ],
)
def test_a_bad_line_is_reported_by_number_and_the_next_is_read(line: bytes, reason: str) -> None:
    first, bad, last = jsonl(
        b'{"id": "first", "title": "t"}\n' + line + b'\n{"id": 3, "title": "t"}\n'
    )
    assert isinstance(first, GoodLine)
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    assert reason in bad.reason
    assert isinstance(last, GoodLine)
    assert (last.number, last.record.id) == (3, "3")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a", "1 values for 3 columns"),
        (b"a,b,c,d", "4 values for 3 columns"),
        (b",t,b", "no id"),
        (b"a,,", "no text"),
        (b"a,\xff,b", "not UTF-8"),
        (b'a,"t"x,b', "expected"),
        (b"first,t,b", "stands on line 2 already"),
    ],
)
def test_a_bad_row_is_reported_by_number_and_the_next_is_read(row: bytes, reason: str) -> None:
    first, bad, last = comma_separated(b"id,title,body\nfirst,t,b\n" + row + b"\nlast,t,b\n")
    assert isinstance(first, GoodLine)
    assert isinstance(bad, BadLine)
    assert bad.number == 3
    assert reason in bad.reason
    assert isinstance(last, GoodLine)
    assert last.number == 4


@pytest.mark.parametrize(
    ("header", "reason"),
    [(b"key,title,body", "no column 'id'"), (b"id,title,body,id", "same name")],
)
def test_a_header_that_misses_a_field_ends_the_file(header: bytes, reason: str) -> None:
    with pytest.raises(BadHeader, match=reason):
        comma_separated(header + b"\na,b,c\n")


def test_a_quoted_field_may_span_lines() -> None:
    (line,) = comma_separated(b'\xef\xbb\xbfid,title,body\r\na,"one\ntwo",b\r\n')
    assert isinstance(line, GoodLine)
    assert line.record.text == "one\ntwo. b"
    assert line.number == 3


def test_blank_lines_are_counted_and_skipped() -> None:
    (line,) = jsonl(b'\n  \n{"id": "a", "title": "t"}')
    assert line.number == 3


def test_only_the_named_payload_fields_are_kept() -> None:
    fields = Fields(id="id", text=("title",), payload=("title", "nope"))
    (line,) = jsonl(b'{"id": "a", "title": "t", "colour": "red"}', fields)
    assert isinstance(line, GoodLine)
    assert line.record.payload == {"title": "t"}


@given(st.lists(st.integers(0, 40)), st.integers(1, 20))
def test_long_lines_are_marked_and_never_held(lengths: list[int], limit: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    lines = list(read_lines(io.BytesIO(data), limit_bytes=limit))
    assert lines == [
        RawLine(number, b"x" * length if length <= limit else None)
        for number, length in enumerate(lengths, start=1)
    ]


def test_a_field_that_a_collection_declares_stays_in_the_payload() -> None:
    lines = read_lines(io.BytesIO(b'{"id": "a", "title": "red", "text": "shoe", "n": 1}'))
    fields = Fields(id="id", text=("title", "text"), kept=frozenset({"title"}))
    (line,) = read_jsonl(lines, fields)
    assert isinstance(line, GoodLine)
    assert line.record.text == "red. shoe"
    assert line.record.payload == {"title": "red", "n": 1}

"""What a good line is, and what is said about a bad one."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
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


def joined(title: str, body: str) -> str:
    ends = re.search(
        r"[.!?:;,\u2026\u3002\uff01\uff1f\uff1a\uff1b\uff0c\u060c\u0964\u061f]"
        r"""["'\u00bb\u201d\u2019)\]}]*$""",
        title,
    )
    return f"{title} {body}" if ends else f"{title}. {body}"


def expected(values: list[dict[str, Any]]) -> list[Record]:
    return [
        Record(
            id=row["id"],
            text=joined(row["title"], row["body"]),
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
        (b'{"id": "a", "title": "t", "n": 1e999}', "1e999 is too large for a 64-bit float"),
        (b'{"id": "a", "title": "t", "n": -1e999}', "too large"),
        (b'{"id": 1e999, "title": "t"}', "too large"),
        (b'{"id": "a", "title": "t", "n": ' + b"9" * 5000 + b"}", "5000 digits; 400 are allowed"),
        (b'{"id": "a", "title": "t", "n": ' + b"[" * 33 + b"]" * 33 + b"}", "deeper than 32"),
        (b'{"id": "a", "title": "t", "n": ' + b"[" * 900 + b"]" * 900 + b"}", "deeper than 32"),
        (b'{"id": "a", "title": true}', "'title' must be a string"),
        (b'{"id": "a", "title": "t", "\\ud800": 1}', "not UTF-8"),
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
        (b'a,"t"x,b', "not CSV: a quoted cell goes on behind its quote"),
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
    [
        (b"key,title,body", "line 1: no column 'id'; there are 'key', 'title', 'body'"),
        (b"id,title,body,id", "line 1: two columns have the same name"),
        (b"\n\nid,title", "line 3: no column 'body'"),
        (b"id,title,\xff", "line 1: not UTF-8; save the file as UTF-8"),
        ("id,title,body".encode("utf-16"), "line 1: not UTF-8; save the file as UTF-8"),
        (b"id;title;body", "line 1: no column 'id'; .*; columns are separated by commas"),
        (b"id,title,body\r1,t,b\r", "line 1: not CSV: a line ends with a carriage return alone"),
        (b'id,title,"body', "not CSV: a quoted cell is not closed"),
        (b'id,"title"x,body', "line 1: not CSV"),
    ],
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


CELLS = Fields(
    id="id",
    text=("text",),
    types={
        "price": "number",
        "count": "integer",
        "sold": "boolean",
        "day": "datetime",
        "zip": "keyword",
        "a.b": "number",
    },
)


def test_cells_take_the_declared_type_of_their_column() -> None:
    (line,) = comma_separated(
        b"id,text,price,count,sold,day,zip,a.b,free\n1,t, 12.50 ,+7,Yes,2024-03-10,02134,1,12\n",
        CELLS,
    )
    assert isinstance(line, GoodLine)
    assert line.record.payload == {
        "price": 12.5,
        "count": 7,
        "sold": True,
        "day": "2024-03-10",
        "zip": "02134",
        "a": {"b": 1},
        "free": "12",
    }


def test_an_empty_cell_of_a_type_that_has_no_empty_value_is_no_field() -> None:
    (line,) = comma_separated(b"id,text,price,count,sold,day,zip\n1,t,,,,,\n", CELLS)
    assert isinstance(line, GoodLine)
    assert line.record.payload == {"zip": ""}


@pytest.mark.parametrize(
    ("column", "cell", "expected_type"),
    [
        ("price", "cheap", "a number"),
        ("price", "nan", "a number"),
        ("price", "1e999", "a number"),
        ("price", "1_000", "a number"),
        ("price", "9" * 5000, "a number"),
        ("count", "1.5", "an integer"),
        ("count", str(2**63), "an integer"),
        ("sold", "maybe", "a boolean"),
        ("day", "10.3.2024", "an RFC 3339 date"),
        ("day", "2024-02-30", "an RFC 3339 date"),
    ],
)
def test_a_cell_of_another_type_is_a_bad_line(column: str, cell: str, expected_type: str) -> None:
    good, bad = comma_separated(f"id,text,{column}\n1,t,\n2,t,{cell}\n".encode(), CELLS)
    assert isinstance(good, GoodLine)
    assert isinstance(bad, BadLine)
    assert bad.number == 3
    assert bad.reason.startswith(f"column {column!r}: {cell[:40]!r}"[:50])
    assert f"is not {expected_type}" in bad.reason


@given(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
)
def test_every_number_survives_a_cell(number: float) -> None:
    (line,) = comma_separated(f"id,text,price\n1,t,{number}\n".encode(), CELLS)
    assert isinstance(line, GoodLine)
    assert line.record.payload == {"price": number}


def test_a_column_inside_another_is_no_header() -> None:
    with pytest.raises(BadHeader, match=r"column 'a.b' lies within column 'a'"):
        comma_separated(b"id,text,a,a.b\n1,t,1,2\n", CELLS)
    needed = Fields(id="id", text=("text",), needed=("pirce",))
    with pytest.raises(BadHeader, match="no column 'pirce'"):
        comma_separated(b"id,text,price\n1,t,1\n", needed)


def test_a_large_cell_is_taken() -> None:
    large = "word " * 100_000
    (line,) = comma_separated(f"id,title,body\n1,t,{large}\n".encode())
    assert isinstance(line, GoodLine)
    assert line.record.text == f"t. {large.strip()}"


@pytest.mark.parametrize("line", [b"id,title," + b"x" * (5 << 20), b"x" * (5 << 20)])
def test_a_header_that_is_too_long_is_not_passed_over(line: bytes) -> None:
    with pytest.raises(BadHeader, match="longer than"):
        comma_separated(line + b"\nid,title,body\n1,t,b\n")


ROWS = Fields(id="id", text=("text",), takes_rows=True)


@pytest.mark.parametrize("takes_rows", [True, False])
def test_a_row_as_it_is_exported_is_read_as_that_row(takes_rows: bool) -> None:
    data = b'{"id": "a", "seq": 3, "text": "t", "payload": {"text": "other", "id": 7}}\n'
    (line,) = jsonl(data, replace(ROWS, takes_rows=takes_rows))
    assert isinstance(line, GoodLine)
    payload = {"text": "other", "id": 7}
    assert line.record.payload == (payload if takes_rows else {"seq": 3, "payload": payload})


def test_a_row_without_a_text_is_read_with_its_vector() -> None:
    head = b'{"id": "a", "seq": 3, "payload": {}'
    good, *bad = jsonl(
        head + b', "text": null, "vector": [1, 0.5]}\n'
        + head + b"}\n"
        + head + b', "vector": ["1"]}\n'
        + head + b', "vector": [1e39]}\n'
        + head + b', "text": 5}\n',
        ROWS,
    )  # fmt: skip
    assert isinstance(good, GoodLine)
    assert good.record.vector is not None
    assert good.record.vector.tolist() == [1.0, 0.5]
    reasons = [line.reason for line in bad if isinstance(line, BadLine)]
    assert [reason.partition(";")[0] for reason in reasons] == [
        "neither 'text' nor 'vector'",
        "no vector: 'vector' must be a list of numbers",
        "vector: every component must be finite",
        "no text: 'text' must be a string",
    ]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("A title", "A title. body"),
        ("A title.", "A title. body"),
        ("Why?", "Why? body"),
        ('He said "no."', 'He said "no." body'),
        ("A title (old)", "A title (old). body"),
        ("Features:", "Features: body"),
    ],
)
def test_text_fields_are_joined_as_sentences(title: str, text: str) -> None:
    (line,) = jsonl(json.dumps({"id": 1, "title": title, "body": "body"}).encode())
    assert isinstance(line, GoodLine)
    assert line.record.text == text

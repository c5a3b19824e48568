"""From JSONL and CSV to records.

Owns what a good line is, and the reason why a line is bad. Pure: bytes in, records out. Must not
know files on disk, servers or terminals.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

import numpy as np

from vecserve_client import InvalidArgument, Record
from vecserve_client.types import FieldTypes
from vecserve_client.wire import record_to_proto
from vecserve_server.cli.cells import NOTHING, read_cell
from vecserve_server.domain.validation import MAX_JSON_DEPTH, json_depth

JOINT = ". "
"""Stands between the text fields of a record."""
ENDINGS = tuple(".!?:;,…。！？：；，।؟")  # noqa: RUF001 - meant as they are
"""A field that ends with one of these is joined by a blank alone."""
CLOSING = "\"'»”’)]}"  # noqa: RUF001 - as above
"""May stand behind an ending."""

LINE_BYTES = 4 * 1024 * 1024
"""Longest line, and longest cell, that is read."""
NUMBER_DIGITS = 400
"""Of a whole number; no payload holds more."""

ROW_KEYS = frozenset({"id", "seq", "text", "payload", "vector"})
"""What a row has as `export` writes it; of these it has at least `id`, `seq` and `payload`."""


class BadHeader(ValueError):
    """The first line of a CSV file does not name the fields that are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which fields make up a record."""

    id: str
    text: tuple[str, ...]
    payload: tuple[str, ...] | None = None
    """None: every field that is neither the id nor text, and those of `kept`."""
    kept: frozenset[str] = frozenset()
    types: FieldTypes = field(default_factory=dict)
    """What cells of a CSV file mean, by the names of their columns; JSON values have types."""
    needed: tuple[str, ...] = ()
    """Columns that a CSV file must have beside those above."""
    takes_rows: bool = False
    """Whether a line may be a row as `export` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodLine:
    """A record and the line that it stands on, from 1."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line, from 1, that is no record, and why."""

    number: int
    reason: str


ReadLine: TypeAlias = GoodLine | BadLine


class RawLine(NamedTuple):
    """One line of a stream, without its end; `data` is None where it is too long."""

    number: int
    data: bytes | None


def read_lines(stream: BinaryIO, *, limit_bytes: int = LINE_BYTES) -> Iterator[RawLine]:
    """Split a stream into lines and never hold more than `limit_bytes` of one."""
    number = 0
    while data := stream.readline(limit_bytes + 1):
        number += 1
        is_long = len(data) > limit_bytes and not data.endswith(b"\n")
        while is_long and data and not data.endswith(b"\n"):
            data = stream.readline(limit_bytes)
        yield RawLine(number, None if is_long else data.rstrip(b"\r\n"))


def read_jsonl(lines: Iterable[RawLine], fields: Fields) -> Iterator[ReadLine]:
    """Read one JSON object a line; blank lines are skipped."""
    fields = replace(fields, types={})  # JSON has types and objects of its own
    seen: dict[str, int] = {}
    for number, data in lines:
        if data is not None and not data.strip():
            continue
        try:
            values = _json_object(data)
            is_row = fields.takes_rows and _is_row(values)
            record = _record_of_row(values) if is_row else _record(values, values, fields)
            yield _good(number, record, seen)
        except ValueError as error:
            yield BadLine(number=number, reason=str(error))


def read_csv(lines: Iterable[RawLine], fields: Fields) -> Iterator[ReadLine]:
    """Read comma-separated values whose first line names the fields; blank lines are skipped.

    A record that spans lines counts as its last one. Raises BadHeader.
    """
    csv.field_size_limit(LINE_BYTES)  # of the process; Python's own is 131 072 characters
    too_long: set[int] = set()
    rows = csv.reader(_decoded(lines, too_long), strict=True)
    header: list[str] | None = None
    seen: dict[str, int] = {}
    before = 0
    while True:
        try:
            row = next(rows, None)
            if row is None:
                return
            if too_long.intersection(range(before + 1, rows.line_num + 1)):
                raise ValueError(f"longer than {LINE_BYTES} bytes")
            if row and header is None:
                header = _header(row, fields)
            elif row and header is not None:
                values = _csv_object(header, row)
                record = _record(values, _typed(values, fields), fields)
                yield _good(rows.line_num, record, seen)
        except BadHeader as problem:
            raise BadHeader(f"line {rows.line_num}: {problem}") from None
        except (csv.Error, ValueError) as error:
            reason = _csv_reason(error) if isinstance(error, csv.Error) else str(error)
            if header is None:
                raise BadHeader(f"line {rows.line_num}: {reason}") from None
            yield BadLine(number=rows.line_num, reason=reason)
        before = rows.line_num


def _good(number: int, record: Record, seen: dict[str, int]) -> GoodLine:
    if json_depth(record.payload) > MAX_JSON_DEPTH:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        record_to_proto(record)  # what the client does when it sends it
    except InvalidArgument as error:
        broken = "not UTF-8: it holds a lone surrogate or a broken character"
        raise ValueError(broken if "surrogate" in str(error) else str(error)) from None
    if record.id in seen:
        raise ValueError(f"id {record.id!r} stands on line {seen[record.id]} already")
    seen[record.id] = number
    return GoodLine(number=number, record=record)


def _record(values: Mapping[str, Any], typed: Mapping[str, Any], fields: Fields) -> Record:
    return Record(
        id=_id_of(values, fields.id),
        text=_text_of(values, fields.text),
        payload=_nested(_payload_of(typed, fields), fields.types),
    )


def _json_object(data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise ValueError(f"longer than {LINE_BYTES} bytes")
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object; one object a line is read")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a 64-bit float")
    return value


def _whole(text: str) -> int:
    if len(text) > NUMBER_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits; {NUMBER_DIGITS} are allowed")
    return int(text)


def _is_row(values: Mapping[str, Any]) -> bool:
    return (
        values.keys() <= ROW_KEYS
        and "id" in values
        and isinstance(values.get("payload"), dict)
        and type(values.get("seq")) is int
    )


def _record_of_row(values: Mapping[str, Any]) -> Record:
    row_id, text, vector = _id_of(values, "id"), values.get("text"), values.get("vector")
    if text is not None:
        if not isinstance(text, str):
            raise ValueError("no text: 'text' must be a string")
        return Record(id=row_id, text=text, payload=values["payload"])
    if vector is None:
        raise ValueError("neither 'text' nor 'vector'; `vecserve export --vectors` writes both")
    if not isinstance(vector, list) or not all(type(one) in (int, float) for one in vector):
        raise ValueError("no vector: 'vector' must be a list of numbers")
    with np.errstate(over="ignore"):
        components = np.array(vector, dtype=np.float64).astype(np.float32)
    return Record(id=row_id, vector=components, payload=values["payload"])


def _decoded(lines: Iterable[RawLine], too_long: set[int]) -> Iterator[str]:
    for number, data in lines:
        if data is None:
            too_long.add(number)
        # What is not UTF-8 comes through as lone surrogates, and fails its own record.
        text = (data or b"").decode("utf-8", errors="surrogateescape") + "\n"
        yield text.removeprefix("\ufeff") if number == 1 else text


def _csv_reason(error: csv.Error) -> str:
    said = next((said for part, said in _CSV_REASONS.items() if part in str(error)), str(error))
    return f"not CSV: {said}"


_CSV_REASONS: Mapping[str, str] = {
    "new-line character": "a line ends with a carriage return alone; end lines with LF or CRLF",
    "unexpected end of data": "a quoted cell is not closed; a quote within one is written twice",
    "expected after": "a quoted cell goes on behind its quote; a quote within one is written twice",
}
"""In our words, by a part of what Python says."""


def _header(row: Sequence[str], fields: Fields) -> list[str]:
    if any("\udc80" <= character <= "\udcff" for name in row for character in name):
        raise BadHeader("not UTF-8; save the file as UTF-8")
    asked = {"--id-field": (fields.id,), "--text-field": fields.text}
    asked |= {"--payload-field": fields.payload or (), "--field": fields.needed}
    for flag, names in asked.items():
        if missing := [name for name in names if name not in row]:
            there = ", ".join(map(repr, row))
            cure = f"{flag} names another"
            if len(row) == 1 and any(separator in row[0] for separator in ";\t|"):
                cure = "columns are separated by commas"
            raise BadHeader(f"no column {missing[0]!r}; there are {there}; {cure}")
    if len(set(row)) < len(row):
        raise BadHeader("two columns have the same name")
    for name in row:
        above = name.rpartition(".")[0]
        if name in fields.types and above in row:
            raise BadHeader(f"column {name!r} lies within column {above!r}")
    return list(row)


def _csv_object(header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} values for {len(header)} columns")
    return dict(zip(header, row, strict=True))


def _typed(values: Mapping[str, str], fields: Fields) -> dict[str, Any]:
    typed: dict[str, Any] = {}
    for name, text in values.items():
        kind = fields.types.get(name)
        try:
            value = text if kind is None else read_cell(text, kind)
        except ValueError as error:
            raise ValueError(f"column {name!r}: {error}") from None
        if value is not NOTHING:
            typed[name] = value
    return typed


def _nested(payload: dict[str, Any], types: FieldTypes) -> dict[str, Any]:
    """Put columns with a declared dotted name where the collection looks for them."""
    for name in [name for name in payload if "." in name and name in types]:
        value = payload.pop(name)
        inner = payload
        *above, last = name.split(".")
        for key in above:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{name!r} is inside {key!r}, which is not an object")
        inner[last] = value
    return payload


def _id_of(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"no id: {name!r} must be a string or a whole number")
    return str(value)


def _text_of(values: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(f"no text: {name!r} must be a string")
        if value is not None and str(value).strip():
            parts.append(str(value).strip())
    if not parts:
        raise ValueError(
            f"no text: {', '.join(map(repr, names))} missing or empty (see --text-field)"
        )
    text = parts[0]
    for part in parts[1:]:
        ends = text.rstrip(CLOSING).endswith(ENDINGS)
        text += f" {part}" if ends else f"{JOINT}{part}"
    return text


def _payload_of(values: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    if fields.payload is not None:
        return {name: values[name] for name in fields.payload if name in values}
    taken = {fields.id, *fields.text} - fields.kept
    return {name: value for name, value in values.items() if name not in taken}

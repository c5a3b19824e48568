"""From JSONL and CSV to records.

Owns what a good line is, and the reason why a line is bad. Pure: bytes in, records out. Must not
know files on disk, servers or terminals.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

from vecserve_client import Record

JOINT = ". "
"""Stands between the text fields of a record."""

LINE_BYTES = 4 * 1024 * 1024
"""Longest line that is read."""


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
    seen: dict[str, int] = {}
    for number, data in lines:
        if data is not None and not data.strip():
            continue
        try:
            yield _good(number, _json_object(data), fields, seen)
        except ValueError as error:
            yield BadLine(number=number, reason=str(error))


def read_csv(lines: Iterable[RawLine], fields: Fields) -> Iterator[ReadLine]:
    """Read comma-separated values whose first line names the fields; blank lines are skipped.

    A record that spans lines counts as its last one. Raises BadHeader.
    """
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
            if header is None:
                header = _header(row, fields)
            elif row:
                yield _good(rows.line_num, _csv_object(header, row), fields, seen)
        except BadHeader:
            raise
        except (csv.Error, ValueError) as error:
            yield BadLine(number=rows.line_num, reason=str(error))
        before = rows.line_num


def _good(number: int, values: Mapping[str, Any], fields: Fields, seen: dict[str, int]) -> GoodLine:
    record = Record(
        id=_id_of(values, fields.id),
        text=_text_of(values, fields.text),
        payload=_payload_of(values, fields),
    )
    _check_unicode(record)
    if record.id in seen:
        raise ValueError(f"id {record.id!r} stands on line {seen[record.id]} already")
    seen[record.id] = number
    return GoodLine(number=number, record=record)


def _json_object(data: bytes | None) -> dict[str, Any]:
    if data is None:
        raise ValueError(f"longer than {LINE_BYTES} bytes")
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is not a JSON value")


def _decoded(lines: Iterable[RawLine], too_long: set[int]) -> Iterator[str]:
    for number, data in lines:
        if data is None:
            too_long.add(number)
        # What is not UTF-8 comes through as lone surrogates, and fails its own record.
        text = (data or b"").decode("utf-8", errors="surrogateescape") + "\n"
        yield text.removeprefix("\ufeff") if number == 1 else text


def _header(row: Sequence[str], fields: Fields) -> list[str]:
    for name in (fields.id, *fields.text, *(fields.payload or ())):
        if name not in row:
            raise BadHeader(f"no column {name!r}; there are {', '.join(row)}")
    if len(set(row)) < len(row):
        raise BadHeader("two columns have the same name")
    return list(row)


def _csv_object(header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} values for {len(header)} columns")
    return dict(zip(header, row, strict=True))


def _id_of(values: Mapping[str, Any], field: str) -> str:
    value = values.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"no id: {field!r} must be a string or a whole number")
    return str(value)


def _text_of(values: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        value = values.get(name)
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"no text: {name!r} must be a string")
        if value is not None and str(value).strip():
            parts.append(str(value).strip())
    if not parts:
        raise ValueError(f"no text: {', '.join(map(repr, names))} missing or empty")
    return JOINT.join(parts)


def _payload_of(values: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    if fields.payload is not None:
        return {name: values[name] for name in fields.payload if name in values}
    taken = {fields.id, *fields.text} - fields.kept
    return {name: value for name, value in values.items() if name not in taken}


def _check_unicode(record: Record) -> None:
    try:
        payload = json.dumps(record.payload, ensure_ascii=False)
        f"{record.id}{record.text}{payload}".encode()
    except UnicodeEncodeError:
        raise ValueError("not UTF-8: it holds a lone surrogate or a broken character") from None

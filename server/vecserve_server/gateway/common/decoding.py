"""Requests off the wire, with an error that names the field when they do not parse.

Owns what happens to bytes that are no message. Must not know services. Python's protobuf says
only that parsing failed, and grpcio answers INTERNAL; a client with a bad string needs to know
which one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from vecserve_server.errors import InvalidArgument

LENGTH_DELIMITED = 2
# As deep as protobuf itself parses, and as much as may be looked at without holding up the loop.
MAX_DEPTH = 100
MAX_EXPLAINED_BYTES = 1 << 20
MAX_UNCOUNTED_BYTES = 1 << 20
VARINT, FIXED64, FIXED32 = 0, 1, 5
MAX_EXPLAINED_FIELDS = 10_000
M = TypeVar("M", bound=Message)
Deserialise: TypeAlias = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands in for a request that did not parse."""

    error: InvalidArgument


def tolerant(deserialise: Deserialise, *, max_fields: int) -> Deserialise:
    """Wrap a generated deserialiser so that a failure becomes an `Undecodable`.

    So does a large message of more than `max_fields` fields: an empty field takes two bytes on the
    wire and up to eighty in memory, and parsing millions of them holds up all other calls.
    """
    message_type = getattr(deserialise, "__self__", None)
    descriptor: Descriptor | None = getattr(message_type, "DESCRIPTOR", None)

    def decode(data: bytes) -> object:
        if len(data) > MAX_UNCOUNTED_BYTES and _has_more_fields(data, descriptor, max_fields):
            problem = f"has more than {max_fields} fields; send fewer items in one call"
            return Undecodable(InvalidArgument("request", problem))
        try:
            return deserialise(data)
        except DecodeError:
            return Undecodable(explain(data, descriptor))

    return decode


def _has_more_fields(data: bytes, descriptor: Descriptor | None, limit: int) -> bool:
    """Count fields, those of nested messages too; what does not parse is left to the parser."""
    left, todo = limit, [(0, len(data), descriptor)]
    try:
        while todo:
            at, end, kind = todo.pop()
            while at < end:
                left -= 1
                if left < 0:
                    return True
                tag, at = _varint(data, at)
                wire_type = tag & 7
                if wire_type == LENGTH_DELIMITED:
                    size, at = _varint(data, at)
                    field = kind.fields_by_number.get(tag >> 3) if kind else None
                    if field is not None and field.message_type is not None:
                        todo.append((at, at + size, field.message_type))
                    at += size
                elif wire_type == VARINT:
                    _, at = _varint(data, at)
                else:
                    at += {FIXED64: 8, FIXED32: 4}.get(wire_type, 0)
    except IndexError:
        return False
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number; returns it and where the next thing begins."""
    value, shift = 0, 0
    while (byte := data[at]) >= 0x80:
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | byte << shift, at + 1


def explain(data: bytes, descriptor: Descriptor | None) -> InvalidArgument:
    """Find out why the bytes are no such message."""
    if descriptor is None:
        return InvalidArgument("request", "is not a valid message")
    path = _first_bad_string(data, descriptor)
    if path is None:
        return InvalidArgument("request", f"is not a valid {descriptor.full_name} message")
    return InvalidArgument(path, "is not valid UTF-8")


def _first_bad_string(data: bytes, descriptor: Descriptor) -> str | None:
    if len(data) > MAX_EXPLAINED_BYTES:
        return None
    try:
        paths = islice(_strings(data, descriptor, "", depth=0), MAX_EXPLAINED_FIELDS)
        return next((path for path, value in paths if not _is_utf8(value)), None)
    except DecodeError:
        return None


def _strings(
    data: bytes, descriptor: Descriptor, prefix: str, *, depth: int
) -> Iterator[tuple[str, bytes]]:
    """Yield the string fields with their paths, and every other field as an empty string."""
    if depth == MAX_DEPTH:
        return
    unparsed = Empty()
    unparsed.ParseFromString(data)
    seen: dict[str, int] = {}
    for entry in UnknownFieldSet(unparsed):
        field = descriptor.fields_by_number.get(entry.field_number)
        if field is None or entry.wire_type != LENGTH_DELIMITED:
            yield prefix, b""
            continue
        index = seen[field.name] = seen.get(field.name, -1) + 1
        path = f"{prefix}{field.name}" + (f"[{index}]" if field.is_repeated else "")
        yield path, entry.data if field.type == FieldDescriptor.TYPE_STRING else b""
        if field.message_type is not None:
            yield from _strings(entry.data, field.message_type, f"{path}.", depth=depth + 1)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

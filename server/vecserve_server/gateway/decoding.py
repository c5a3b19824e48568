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
MAX_EXPLAINED_FIELDS = 10_000
M = TypeVar("M", bound=Message)
Deserialise: TypeAlias = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands in for a request that did not parse."""

    error: InvalidArgument


def tolerant(deserialise: Deserialise) -> Deserialise:
    """Wrap a generated deserialiser so that a failure becomes an `Undecodable`."""
    message_type = getattr(deserialise, "__self__", None)
    descriptor: Descriptor | None = getattr(message_type, "DESCRIPTOR", None)

    def decode(data: bytes) -> object:
        try:
            return deserialise(data)
        except DecodeError:
            return Undecodable(explain(data, descriptor))

    return decode


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

"""Requests off the wire, with an error that names the field when they do not parse.

Owns what happens to bytes that are no message. Must not know services. Python's protobuf says
only that parsing failed, and grpcio answers INTERNAL; a client with a bad string needs to know
which one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from vecserve_server.errors import InvalidArgument

LENGTH_DELIMITED = 2
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
    try:
        path = next(_bad_strings(data, descriptor, ""), None)
    except DecodeError:
        path = None
    if path is None:
        return InvalidArgument("request", f"is not a valid {descriptor.full_name} message")
    return InvalidArgument(path, "is not valid UTF-8")


def _bad_strings(data: bytes, descriptor: Descriptor, prefix: str) -> Iterator[str]:
    """Yield the paths of the string fields that hold no UTF-8."""
    unparsed = Empty()
    unparsed.ParseFromString(data)
    seen: dict[str, int] = {}
    for entry in UnknownFieldSet(unparsed):
        field = descriptor.fields_by_number.get(entry.field_number)
        if field is None or entry.wire_type != LENGTH_DELIMITED:
            continue
        index = seen[field.name] = seen.get(field.name, -1) + 1
        path = f"{prefix}{field.name}" + (f"[{index}]" if field.is_repeated else "")
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(entry.data):
            yield path
        elif field.message_type is not None:
            yield from _bad_strings(entry.data, field.message_type, f"{path}.")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

"""What callers may hand in beside the exact types, and what is said about the rest.

Owns dictionaries in the place of `Record`, `Fields` and `EmbedOptions`, and lists that are none.
Must not know calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeAlias, TypeVar

from vecserve_client.errors import InvalidArgument
from vecserve_client.types import EmbedOptions, Fields, FieldTypes, Record

T = TypeVar("T")

AnyRecord: TypeAlias = Record | Mapping[str, Any]
"""A row to write, or a dictionary of its parts."""

FIELDS_FORM = 'write {"brand": "keyword", "price": "number"}, or Fields(types={...})'
RECORD_FORM = 'write Record(id="1", text="a red bicycle", payload={"price": 120})'


def as_list(name: str, items: Iterable[T]) -> Sequence[T]:
    """Accept a list; a single string would pass for a list of its characters."""
    if isinstance(items, str | bytes) or not hasattr(items, "__iter__"):
        raise InvalidArgument(f"{name}: is a {type(items).__name__}; a list of them is asked for")
    return items if isinstance(items, Sequence) else list(items)


def as_fields(fields: Fields | FieldTypes) -> Fields:
    """Accept declared fields, or a dictionary from their names to their types."""
    if isinstance(fields, Fields):
        types: Any = fields.types
    else:
        types = fields
    if not isinstance(types, Mapping):
        raise InvalidArgument(f"fields: is a {type(types).__name__}; {FIELDS_FORM}")
    for name, kind in types.items():
        if not isinstance(name, str) or not isinstance(kind, str):
            raise InvalidArgument(f"fields: {name!r}: {kind!r} is no name and type; {FIELDS_FORM}")
    return fields if isinstance(fields, Fields) else Fields(types=types)


def as_record(row: AnyRecord) -> Record:
    """Accept a row, or a dictionary of its parts."""
    record = row if isinstance(row, Record) else _made(Record, "record", row, RECORD_FORM)
    if not isinstance(record.id, str) or not isinstance(record.text, str | None):
        raise InvalidArgument(f"record {record.id!r:.80}: id and text are strings; {RECORD_FORM}")
    if not isinstance(record.payload, Mapping):
        raise InvalidArgument(f"record {record.id!r}: payload is a dictionary; {RECORD_FORM}")
    return record


def as_embed_options(options: EmbedOptions | Mapping[str, Any] | None) -> EmbedOptions | None:
    """Accept options, or a dictionary of them."""
    if options is None or isinstance(options, EmbedOptions):
        return options
    return _made(EmbedOptions, "options", options, 'write EmbedOptions(prompt_name="query")')


def check_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise InvalidArgument for an option that there is not."""
    listed = sorted(known)
    if unknown := sorted(set(given) - set(listed)):
        raise InvalidArgument(f"{what}: no option {unknown[0]!r}; there are {', '.join(listed)}")


def fitted(kind: Callable[..., T], where: str = "", /, **values: Any) -> T:
    """Make a message of the wire; raise InvalidArgument that names the value of a wrong type."""
    try:
        return kind(**values)
    except (TypeError, ValueError):
        for name, value in values.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as error:
                shown = f"{value!r:.80} has the type {type(value).__name__}"
                raise InvalidArgument(
                    f"{where}{name}: {shown}, which does not fit: {error}"
                ) from None
        raise


def check_k(k: object) -> None:
    """Raise InvalidArgument for a number of rows that is none."""
    if not isinstance(k, SupportsIndex) or isinstance(k, bool) or int(k) < 1:
        raise InvalidArgument(f"k: {k!r:.80}, must be a whole number, 1 or more")


def _made(kind: type[T], name: str, parts: Any, form: str) -> T:
    if not isinstance(parts, Mapping):
        raise InvalidArgument(f"{name}: is a {type(parts).__name__}; {form}")
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in parts if key not in known]:
        raise InvalidArgument(f"{name}: has no {unknown[0]!r}, only {', '.join(known)}; {form}")
    try:
        return kind(**parts)
    except TypeError as error:
        raise InvalidArgument(f"{name}: {error}; {form}") from None

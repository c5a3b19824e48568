"""Fields that the command line names, against a collection: their types, and whether they exist.

Owns what is said about a condition that can hold for no row. Must not know the language (see
`conditions`). The server answers such a condition with no rows: to it, a field that no row has yet
is as good as any other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from vecserve.v1.search_pb2 import Filter
from vecserve_client import Client, Collection, DeadlineExceeded, InvalidArgument, Row, filters
from vecserve_server.cli.conditions import Condition, read_conditions
from vecserve_server.cli.exits import UsageProblem

SAMPLE_ROWS: Final = 100
SHOWN_FIELDS: Final = 30
SHOWN_LEVELS: Final = 3


def read_where(client: Client, collection: str, typed: Sequence[str] | None) -> Filter | None:
    """Read the conditions; raise UsageProblem for one that no row of the collection can meet."""
    if not typed:
        return None
    found = client.get_collection(collection)
    conditions = read_conditions(typed, found.fields.types)
    if found.row_count:
        for condition in conditions.each:
            _check(client, found, condition)
    return conditions.filter


def require_field(client: Client, collection: str, flag: str, field: str) -> None:
    """Raise UsageProblem if no row has a field that an option names, and it is not declared.

    A key that holds a dot counts if one of the first rows has it: filters do not reach it.
    """
    found = client.get_collection(collection)
    if not found.row_count or field in found.fields.types:
        return
    try:
        if _first(client, found, filters.exists(field)) is not None:
            return
    except DeadlineExceeded:
        return
    except InvalidArgument:
        pass  # no filter takes such a name, so only a key can be it
    if field not in set(_names(client, found)):
        raise _unknown(client, found, f"{flag} {field}", field)


def _check(client: Client, collection: Collection, condition: Condition) -> None:
    try:
        if _first(client, collection, condition.witness) is not None:
            return
        holder = _first(client, collection, filters.exists(condition.field))
    except DeadlineExceeded:
        return  # it is not known; the command itself may be quicker
    kind = collection.fields.types.get(condition.field)
    if holder is not None:
        shown = json.dumps(_value(holder.payload or {}, condition.field), ensure_ascii=False)[:60]
        declared = f", declared as {kind}" if kind else ""
        raise UsageProblem(
            f"--where {condition.typed!r}: no row of {collection.name!r} holds a {condition.needs} "
            f"in {condition.field!r}{declared}; row {holder.id!r} holds {shown}. Index the rows "
            f"with `--field {condition.field}:{_TYPES[condition.needs]}`"
        )
    if kind is None:
        raise _unknown(client, collection, f"--where {condition.typed!r}", condition.field)


_TYPES: Final[Mapping[str, str]] = {
    "number": "number",
    "date": "datetime",
    "boolean": "boolean",
    "string": "keyword",
    "value": "keyword",
}


def _unknown(client: Client, collection: Collection, asked: str, field: str) -> UsageProblem:
    known = sorted({*collection.fields.types, *_names(client, collection)})
    return UsageProblem(
        f"{asked}: no row of {collection.name!r} has a field {field!r}{_meant(field, known)}; "
        f"there are {_listed(known)}"
    )


def _first(client: Client, collection: Collection, where: Filter) -> Row | None:
    rows = client.scan(collection.name, where=where, page_size=1)
    return next(iter(rows), None)


def _names(client: Client, collection: Collection) -> Iterator[str]:
    for row in islice(client.scan(collection.name, page_size=SAMPLE_ROWS), SAMPLE_ROWS):
        yield from _keys(row.payload or {}, levels=SHOWN_LEVELS)


def _keys(payload: Mapping[str, Any], *, levels: int) -> Iterator[str]:
    for key, value in payload.items():
        if isinstance(value, dict) and value and levels > 1:
            yield from (f"{key}.{inner}" for inner in _keys(value, levels=levels - 1))
        else:
            yield key


def _value(payload: Any, name: str) -> Any:
    for key in name.split("."):
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload


def _meant(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no fields in its payloads"
    more = f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else ""
    return ", ".join(names[:SHOWN_FIELDS]) + more

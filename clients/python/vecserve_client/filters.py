"""Conditions on payloads, for searches, scans, counts and deletes.

Owns the short way to write a `Filter`. Must not know which calls take one.

    all_of(equals("colour", "red"), between("price", gte=10, lt=20))
"""

from __future__ import annotations

import json
from typing import TypeAlias

from vecserve.v1.search_pb2 import FieldCondition, Filter, FilterList, JsonList, Range

Scalar: TypeAlias = bool | int | float | str | None
Bound: TypeAlias = int | float | str
"""A number, or an RFC 3339 date or date-time."""


def equals(field: str, value: Scalar) -> Filter:
    """Hold where the field is this value."""
    return Filter(field=FieldCondition(field=field, equals_json=json.dumps(value)))


def one_of(field: str, *values: Scalar) -> Filter:
    """Hold where the field is one of these values."""
    listed = JsonList(values_json=[json.dumps(value) for value in values])
    return Filter(field=FieldCondition(field=field, one_of=listed))


def between(
    field: str,
    *,
    gt: Bound | None = None,
    gte: Bound | None = None,
    lt: Bound | None = None,
    lte: Bound | None = None,
) -> Filter:
    """Hold where the field lies within all of the given bounds."""
    bounds = Range(gt=_bound(gt), gte=_bound(gte), lt=_bound(lt), lte=_bound(lte))
    return Filter(field=FieldCondition(field=field, range=bounds))


def exists(field: str, *, there: bool = True) -> Filter:
    """Hold where the field is there, or where it is not."""
    return Filter(field=FieldCondition(field=field, exists=there))


def prefix(field: str, beginning: str) -> Filter:
    """Hold where the field is a string that begins so."""
    return Filter(field=FieldCondition(field=field, prefix=beginning))


def all_of(*filters: Filter) -> Filter:
    """Hold where all of these hold."""
    return Filter(all_of=FilterList(filters=filters))


def any_of(*filters: Filter) -> Filter:
    """Hold where at least one of these holds."""
    return Filter(any_of=FilterList(filters=filters))


def negate(condition: Filter) -> Filter:
    """Hold where the condition does not."""
    outer = Filter()
    getattr(outer, "not").CopyFrom(condition)  # the field's name is a Python keyword
    return outer


def _bound(value: Bound | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)

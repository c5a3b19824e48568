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
    """Match if the field has this value."""
    return Filter(field=FieldCondition(field=field, equals_json=json.dumps(value)))


def one_of(field: str, *values: Scalar) -> Filter:
    """Match if the field has one of these values."""
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
    """Match if the field is within all given bounds."""
    bounds = Range(gt=_bound(gt), gte=_bound(gte), lt=_bound(lt), lte=_bound(lte))
    return Filter(field=FieldCondition(field=field, range=bounds))


def exists(field: str, *, there: bool = True) -> Filter:
    """Match if the field exists, or if it does not."""
    return Filter(field=FieldCondition(field=field, exists=there))


def prefix(field: str, beginning: str) -> Filter:
    """Match if the field is a string with this beginning."""
    return Filter(field=FieldCondition(field=field, prefix=beginning))


def all_of(*filters: Filter) -> Filter:
    """Match if all of these match."""
    return Filter(all_of=FilterList(filters=filters))


def any_of(*filters: Filter) -> Filter:
    """Match if at least one of these matches."""
    return Filter(any_of=FilterList(filters=filters))


def negate(condition: Filter) -> Filter:
    """Match if the condition does not match."""
    outer = Filter()
    getattr(outer, "not").CopyFrom(condition)  # the field's name is a Python keyword
    return outer


def _bound(value: Bound | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)

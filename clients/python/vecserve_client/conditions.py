"""Conditions written as dictionaries, beside the functions of `filters`.

Owns that short form and what is said about a wrong one. Must not know which calls take one.

    {"brand": "Acme", "price": {"gte": 10, "lt": 20}, "colour": ["red", "blue"]}
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from vecserve.v1.search_pb2 import Filter
from vecserve_client import filters
from vecserve_client.errors import InvalidArgument

Where: TypeAlias = Filter | Mapping[str, Any]
"""A filter made with `filters`, or a dictionary from fields to what they must be.

A field's value is a scalar (equal), a list of scalars (one of these), or a dictionary of
operators: equals, one_of, gt, gte, lt, lte, prefix, exists, not. All fields must hold; `any_of`,
`all_of` and `not` in the place of a field join conditions.
"""

BOUNDS: Final = ("gt", "gte", "lt", "lte")
OPERATORS: Final = ("equals", "one_of", *BOUNDS, "prefix", "exists", "not")
JOINS: Final[Mapping[str, Callable[..., Filter]]] = MappingProxyType(
    {"all_of": filters.all_of, "any_of": filters.any_of}
)
FORM: Final = (
    'write {"brand": "Acme", "price": {"gte": 10, "lt": 20}}, or use vecserve_client.filters: '
    'filters.equals("brand", "Acme")'
)
MAX_DEPTH: Final = 16
"""More than the server takes."""


def as_filter(where: Where | None, *, name: str = "where", depth: int = 0) -> Filter | None:
    """Make a filter of what a caller wrote; raise InvalidArgument that shows the right form."""
    if where is None or isinstance(where, Filter):
        return where
    if not isinstance(where, Mapping):
        raise InvalidArgument(f"{name}: is a {type(where).__name__}; {FORM}")
    if not where:
        raise InvalidArgument(f"{name}: is empty; leave it out for all rows, or {FORM}")
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"{name}: is nested too deep")
    parts = [_entry(key, value, name, depth + 1) for key, value in where.items()]
    return parts[0] if len(parts) == 1 else filters.all_of(*parts)


def _entry(key: object, value: Any, name: str, depth: int) -> Filter:
    if not isinstance(key, str):
        raise InvalidArgument(f"{name}: {key!r} is not the name of a field; {FORM}")
    here = f"{name}[{key!r}]"
    if key in JOINS:
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            raise InvalidArgument(f"{here}: must be a list of conditions; {FORM}")
        listed = [_part(one, f"{here}[{at}]", depth) for at, one in enumerate(value)]
        return JOINS[key](*listed)
    if key == "not":
        return filters.negate(_part(value, here, depth))
    return _field(key, value, here, depth)


def _part(value: Any, name: str, depth: int) -> Filter:
    made = as_filter(value, name=name, depth=depth)
    if made is None:
        raise InvalidArgument(f"{name}: is None; {FORM}")
    return made


def _field(field: str, value: Any, name: str, depth: int) -> Filter:
    if isinstance(value, Mapping):
        return _operators(field, value, name, depth)
    if isinstance(value, list | tuple | set | frozenset):
        return filters.one_of(field, *(_scalar(one, name) for one in value))
    return filters.equals(field, _scalar(value, name))


def _operators(field: str, tests: Mapping[Any, Any], name: str, depth: int) -> Filter:
    if not tests or depth > MAX_DEPTH:
        raise InvalidArgument(f"{name}: has no operator, or too many levels; {FORM}")
    for operator in tests:
        if operator not in OPERATORS:
            raise InvalidArgument(
                f"{name}: {operator!r} is no operator; there are {', '.join(OPERATORS)}; {FORM}"
            )
    bounds = {key: _bound(tests[key], f"{name}[{key!r}]") for key in BOUNDS if key in tests}
    parts = [filters.between(field, **bounds)] if bounds else []
    parts += [
        _test(field, operator, value, f"{name}[{operator!r}]", depth)
        for operator, value in tests.items()
        if operator not in BOUNDS
    ]
    return parts[0] if len(parts) == 1 else filters.all_of(*parts)


def _test(field: str, operator: str, value: Any, name: str, depth: int) -> Filter:
    if operator == "not":
        return filters.negate(_field(field, value, name, depth + 1))
    if operator == "equals":
        return filters.equals(field, _scalar(value, name))
    if operator == "one_of":
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            raise InvalidArgument(f"{name}: must be a list of values")
        return filters.one_of(field, *(_scalar(one, name) for one in value))
    if operator == "exists":
        if not isinstance(value, bool):
            raise InvalidArgument(f"{name}: must be True or False")
        return filters.exists(field, there=value)
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}: must be a string")
    return filters.prefix(field, value)


def _scalar(value: Any, name: str) -> filters.Scalar:
    if isinstance(value, datetime.date):
        return _instant(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if hasattr(value, "item"):  # a scalar of NumPy
        return _scalar(value.item(), name)
    raise InvalidArgument(
        f"{name}: {value!r:.80} is no JSON scalar; a string, number, boolean or None is; {FORM}"
    )


def _bound(value: Any, name: str) -> filters.Bound:
    scalar = _scalar(value, name)
    if scalar is None or isinstance(scalar, bool):
        raise InvalidArgument(f"{name}: {value!r} is no bound; a number or an RFC 3339 date is")
    return scalar


def _instant(value: datetime.date) -> str:
    """Write a date or a date-time in the form of RFC 3339; a time without a zone counts as UTC."""
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.isoformat()

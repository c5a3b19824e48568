"""Payloads and conditions at random, and what a condition means, in plain Python."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from vecserve_server.domain.collections import FieldSpec, FieldType
from vecserve_server.domain.conditions import (
    AllOf,
    AnyOf,
    Bounds,
    Condition,
    Exists,
    InstantIn,
    Not,
    NumberIn,
    OneOf,
    StartsWith,
)
from vecserve_server.domain.instants import parse_instant

MISSING = object()
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
FIELDS = ("a", "b", "n.x", "n", "it's", "é ")
# One field of each type, though their values are of every type.
DECLARED = tuple(
    FieldSpec(name=name, type=kind)
    for name, kind in zip(
        FIELDS,
        (
            FieldType.KEYWORD,
            FieldType.NUMBER,
            FieldType.DATETIME,
            FieldType.TEXT,
            FieldType.BOOLEAN,
            FieldType.INTEGER,
        ),
        strict=True,
    )
)

DATES = st.sampled_from(
    [
        "2024-02-29",
        "2023-02-29",
        "2024-02-29T23:30:00Z",
        "2024-02-29t23:30:00.000001z",
        "2024-03-01 00:30:00.0000019+01:00",
        "2024-02-29T22:00:00-01:30",
        "2024-02-29T24:00:00Z",
        "2024-02-29T23:30:00",
        "2024-02-29T22",
        "2024-02-29T23:59:60Z",
        "1969-12-31T23:59:59.5Z",
        "0000-01-01",
        "now",
    ]
)
TEXTS = (
    DATES
    | st.text(st.characters(codec="utf-8"), max_size=4)
    | st.sampled_from(
        ["red", "red\0", "reds", '"', "\\", "\\u0000", "1", "true", "null", "\ud7ff", "\U0010ffff"]
    )
)
# Few different numbers, so that they meet; some that 64-bit floats cannot tell apart.
NUMBERS = st.sampled_from(
    [0, -0.0, 1, 1.0, 1.5, -3, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 2**63, 0.1, 1e300]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("x"), inner, max_size=1),
    max_leaves=4,
)
PAYLOADS = st.dictionaries(st.sampled_from(["a", "b", "n", "it's", "é ", "n.x"]), VALUES)


def bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Bounds[Any]]:
    names = st.lists(st.sampled_from(["gt", "gte", "lt", "lte"]), min_size=1, unique=True)
    return names.flatmap(lambda some: st.builds(Bounds, **dict.fromkeys(some, values)))


TESTS = st.sampled_from(FIELDS).flatmap(
    lambda field: st.one_of(
        st.builds(
            OneOf,
            field=st.just(field),
            values=st.lists(SCALARS, min_size=1, max_size=4).map(tuple),
        ),
        st.builds(NumberIn, field=st.just(field), bounds=bounds(NUMBERS)),
        st.builds(
            InstantIn,
            field=st.just(field),
            bounds=bounds(DATES.map(parse_instant).filter(lambda found: found is not None)),
        ),
        st.builds(Exists, field=st.just(field), there=st.booleans()),
        st.builds(StartsWith, field=st.just(field), beginning=TEXTS.filter(bool)),
    )
)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AllOf(parts=tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: AnyOf(parts=tuple(parts))),
        inner.map(lambda part: Not(part=part)),
    ),
    max_leaves=6,
)


def canonical(payload: Mapping[str, Any]) -> str:
    """A payload as the server stores it."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"))


def matches(condition: Condition, payload: Mapping[str, Any]) -> bool:
    """What a condition means."""
    if isinstance(condition, AllOf):
        return all(matches(part, payload) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(matches(part, payload) for part in condition.parts)
    if isinstance(condition, Not):
        return not matches(condition.part, payload)
    value = value_of(payload, condition.field)
    if isinstance(condition, Exists):
        return (value is not MISSING) == condition.there
    if isinstance(condition, OneOf):
        return any(is_same(value, wanted) for wanted in condition.values)
    if isinstance(condition, StartsWith):
        return isinstance(value, str) and value.startswith(condition.beginning)
    if isinstance(condition, NumberIn):
        return is_number(value) and within(as_stored(value), condition.bounds)
    instant = parse_instant(value) if isinstance(value, str) else None
    return instant is not None and within(instant, condition.bounds)


def value_of(payload: Mapping[str, Any], field: str) -> Any:
    value: Any = payload
    for key in field.split("."):
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = value[key]
    return value


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_same(value: Any, wanted: Any) -> bool:
    if is_number(value) and is_number(wanted):
        return bool(as_stored(value) == as_stored(wanted))
    return type(value) is type(wanted) and bool(value == wanted)


def as_stored(value: Any) -> Any:
    """Integers beyond 64 bits are floats."""
    return value if isinstance(value, float) or -(2**63) <= value < 2**63 else float(value)


def within(value: Any, interval: Bounds[Any]) -> bool:
    return all(COMPARE[sign](value, as_stored(bound)) for sign, bound in interval.comparisons())

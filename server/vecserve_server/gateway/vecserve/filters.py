"""Filters off the wire.

Owns the limits of what a request's filter may hold, and the names of its fields in messages. Must
not know how filters are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from vecserve.v1 import search_pb2
from vecserve_server.domain.conditions import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_JOINED,
    MAX_ONE_OF,
    MAX_PREFIX_BYTES,
    MAX_SCALARS,
    AllOf,
    AnyOf,
    Bounds,
    Condition,
    Exists,
    InstantIn,
    Not,
    NumberIn,
    OneOf,
    Scalar,
    StartsWith,
)
from vecserve_server.domain.instants import parse_instant
from vecserve_server.domain.validation import check_field_name, parse_json
from vecserve_server.errors import FieldPath, InvalidArgument

MAX_SCALAR_CHARACTERS = 64 * 1024
MAX_NUMBER_CHARACTERS = 400
BOUND_NAMES = ("gt", "gte", "lt", "lte")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterLimits:
    """How large a filter may be."""

    conditions: int = MAX_CONDITIONS
    values: int = MAX_SCALARS
    """Scalars of all `one_of`."""
    depth: int = MAX_DEPTH


ANY_SIZE = FilterLimits()


def read_filter(
    field: str | FieldPath, message: search_pb2.Filter, limits: FilterLimits = ANY_SIZE
) -> Condition:
    """Read a filter that stands in `field`; raise InvalidArgument that names the part."""
    path = (field,) if isinstance(field, str) else field
    return _Reader(limits).read(path, message, depth=1)


class _Reader:
    """Counts what one filter holds."""

    def __init__(self, limits: FilterLimits) -> None:
        self._limits = limits
        self._conditions = 0
        self._scalars = 0

    def read(self, field: FieldPath, message: search_pb2.Filter, *, depth: int) -> Condition:
        limits = self._limits
        if depth > limits.depth:
            raise InvalidArgument(
                field,
                f"is nested deeper than {limits.depth} levels (limits.max_filter_depth); "
                "write the filter flatter",
            )
        self._conditions += 1
        if self._conditions > limits.conditions:
            raise InvalidArgument(
                field,
                f"is one condition too many; {limits.conditions} are allowed "
                "(limits.max_filter_conditions): join tests of one field in one one_of, or split "
                "the call",
            )
        kind = message.WhichOneof("condition")
        if kind == "all_of":
            return AllOf(parts=self._list((*field, "all_of"), message.all_of, depth))
        if kind == "any_of":
            return AnyOf(parts=self._list((*field, "any_of"), message.any_of, depth))
        if kind == "not":
            inner = getattr(message, "not")  # the field's name is a Python keyword
            return Not(part=self.read((*field, "not"), inner, depth=depth + 1))
        if kind == "field":
            return self._test((*field, "field"), message.field)
        raise InvalidArgument(field, "is empty; all_of, any_of, not or field must be set")

    def _list(
        self, field: FieldPath, message: search_pb2.FilterList, depth: int
    ) -> tuple[Condition, ...]:
        _check_length((*field, "filters"), message.filters, MAX_JOINED)
        return tuple(
            self.read((*field, "filters", index), part, depth=depth + 1)
            for index, part in enumerate(message.filters)
        )

    def _test(self, field: FieldPath, message: search_pb2.FieldCondition) -> Condition:
        name = check_field_name((*field, "field"), message.field)
        kind = message.WhichOneof("test")
        if kind == "equals_json":
            value = self._scalar((*field, "equals_json"), message.equals_json)
            return OneOf(field=name, values=(value,))
        if kind == "one_of":
            return OneOf(field=name, values=self._scalars_of((*field, "one_of"), message.one_of))
        if kind == "range":
            return _range((*field, "range"), name, message.range)
        if kind == "exists":
            return Exists(field=name, there=message.exists)
        if kind == "prefix":
            return StartsWith(field=name, beginning=_prefix((*field, "prefix"), message.prefix))
        raise InvalidArgument(
            field, "has no test; equals_json, one_of, range, exists or prefix must be set"
        )

    def _scalars_of(self, field: FieldPath, message: search_pb2.JsonList) -> tuple[Scalar, ...]:
        _check_length((*field, "values_json"), message.values_json, MAX_ONE_OF)
        return tuple(
            self._scalar((*field, "values_json", index), text)
            for index, text in enumerate(message.values_json)
        )

    def _scalar(self, field: FieldPath, text: str) -> Scalar:
        self._scalars += 1
        if self._scalars > self._limits.values:
            raise InvalidArgument(
                field,
                f"is one scalar too many; {self._limits.values} are allowed "
                "(limits.max_filter_values): split the call",
            )
        if len(text) > MAX_SCALAR_CHARACTERS:
            raise InvalidArgument(
                field, f"has {len(text)} characters; the limit is {MAX_SCALAR_CHARACTERS}"
            )
        value: Scalar = parse_json(field, text)
        if isinstance(value, dict | list):
            raise InvalidArgument(field, "is no JSON scalar but an object or a list")
        if isinstance(value, str):
            _check_unicode(field, value)
        return _finite(field, value)


def _range(field: FieldPath, name: str, message: search_pb2.Range) -> Condition:
    set_fields = {descriptor.name for descriptor, _ in message.ListFields()}
    texts = {bound: getattr(message, bound) for bound in BOUND_NAMES if bound in set_fields}
    if not texts:
        raise InvalidArgument(field, "has no bound; gt, gte, lt or lte must be set")
    instants = {bound: parse_instant(text) for bound, text in texts.items()}
    if all(instant is not None for instant in instants.values()):
        return InstantIn(field=name, bounds=Bounds(**_all_of(instants)))
    if any(instant is not None for instant in instants.values()):
        raise InvalidArgument(field, "has numbers and dates; its bounds must be of one kind")
    numbers = {bound: _number((*field, bound), text) for bound, text in texts.items()}
    return NumberIn(field=name, bounds=Bounds(**numbers))


def _all_of(found: dict[str, T | None]) -> dict[str, T]:
    return {name: value for name, value in found.items() if value is not None}


def _number(field: FieldPath, text: str) -> float:
    try:
        value = parse_json(field, text) if len(text) <= MAX_NUMBER_CHARACTERS else None
    except InvalidArgument:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(
            field, f"{text[:40]!r} is neither a JSON number nor a date or date-time"
        )
    return _finite(field, value)


def _finite(field: FieldPath, value: T) -> T:
    try:
        is_finite = not isinstance(value, int | float) or math.isfinite(float(value))
    except OverflowError:
        is_finite = False
    if not is_finite:
        raise InvalidArgument(field, "is too large for a 64-bit float")
    return value


def _prefix(field: FieldPath, text: str) -> str:
    size_bytes = len(text.encode())
    if not 1 <= size_bytes <= MAX_PREFIX_BYTES:
        raise InvalidArgument(field, f"has {size_bytes} bytes; 1 to {MAX_PREFIX_BYTES} are allowed")
    return text


def _check_unicode(field: FieldPath, text: str) -> None:
    # JSON can escape half of a character; no payload holds one.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(field, "holds a lone surrogate") from None


def _check_length(field: FieldPath, items: Sequence[object], limit: int) -> None:
    if not 1 <= len(items) <= limit:
        raise InvalidArgument(field, f"has {len(items)}; 1 to {limit} are allowed")

"""Conditions as they are typed: `price<20`, `brand=Acme`, `title^=Red`, `!colour`.

Owns that short language; several conditions all hold. Must not know servers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vecserve.v1.search_pb2 import Filter
from vecserve_client import filters
from vecserve_client.types import FieldType, FieldTypes
from vecserve_server.cli.cells import NOTHING, read_cell
from vecserve_server.cli.exits import UsageProblem
from vecserve_server.domain.instants import parse_instant

HELP = "FIELD=VALUE, also != < <= > >= ^= (begins with); FIELD or !FIELD (repeatable: all hold)."
_CONDITION = re.compile(r"(?P<field>[^=<>!^]+)(?P<sign>!=|<=|>=|\^=|=|<|>)(?P<value>.*)", re.DOTALL)
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_LEAST_NUMBER = -1.7976931348623157e308
_FIRST_DAY = "0001-01-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition on one field."""

    typed: str
    field: str
    filter: Filter
    needs: str = "value"
    """What the field must hold somewhere for it to make sense, such as a number; or any value."""

    @property
    def witness(self) -> Filter:
        """What holds for the rows that have what it needs."""
        if self.needs == "number":
            return filters.between(self.field, gte=_LEAST_NUMBER)
        if self.needs == "date":
            return filters.between(self.field, gte=_FIRST_DAY)
        if self.needs == "boolean":
            return filters.one_of(self.field, False, True)
        there = filters.exists(self.field)
        if self.needs == "string":  # no filter says so; arrays and objects count as well
            return filters.all_of(
                there,
                filters.negate(filters.between(self.field, gte=_LEAST_NUMBER)),
                filters.negate(filters.one_of(self.field, False, True, None)),
            )
        return there


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What was typed; all of it holds."""

    each: Sequence[Condition] = field(default=())

    @property
    def filter(self) -> Filter | None:
        """All of them as one; None if there are none."""
        read = [condition.filter for condition in self.each]
        if len(read) > 1:
            return filters.all_of(*read)
        return read[0] if read else None


def read_conditions(typed: Sequence[str], types: FieldTypes | None = None) -> Conditions:
    """Read what was typed; a value takes its field's declared type. Raises UsageProblem."""
    return Conditions(each=[_read(text, types or {}) for text in typed])


def _read(text: str, types: FieldTypes) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        name = text.removeprefix("!").strip()
        if not name or re.search(r"[=<>!^]", name):
            raise UsageProblem(f"--where {text!r}: is no condition; {HELP}")
        there = filters.exists(name, there=not text.startswith("!"))
        return Condition(typed=text, field=name, filter=there)
    name, sign, spelt = match["field"].strip(), match["sign"], match["value"].strip()
    if sign == "^=":
        return Condition(typed=text, field=name, filter=filters.prefix(name, spelt), needs="string")
    kind = types.get(name)
    try:
        if sign in _BOUNDS:
            if kind in {"integer", "number", "datetime"}:
                _of_type(spelt, "number" if kind == "integer" else kind)
            return _bounded(text, name, sign, spelt)
        value = _scalar(spelt) if kind is None else _of_type(spelt, kind)
    except ValueError as error:
        raise UsageProblem(f"--where {text!r}: {name} is declared as {kind}: {error}") from None
    is_date = kind == "datetime" and isinstance(value, str) and parse_instant(value) is not None
    same = filters.between(name, gte=value, lte=value) if is_date else filters.equals(name, value)
    if sign == "!=":
        return Condition(typed=text, field=name, filter=filters.negate(same))
    return Condition(
        typed=text, field=name, filter=same, needs="date" if is_date else _kind_of(value)
    )


def _bounded(text: str, name: str, sign: str, spelt: str) -> Condition:
    needs = "number" if _kind_of(_scalar(spelt)) == "number" else "date"
    if needs == "date" and parse_instant(spelt) is None:
        raise UsageProblem(
            f"--where {text!r}: {spelt!r} is neither a number nor an RFC 3339 date or date-time"
        )
    bounds = filters.between(name, **{_BOUNDS[sign]: spelt})
    return Condition(typed=text, field=name, filter=bounds, needs=needs)


def _of_type(text: str, kind: FieldType) -> Any:
    """Read a value of a declared field; what is quoted is a string, and null is null."""
    if text == "null" or text.startswith('"'):
        return _scalar(text)
    if kind in {"keyword", "text"}:
        return text
    value = read_cell(text, kind)
    if value is NOTHING:
        raise ValueError("there is no value")
    return value


def _scalar(text: str) -> Any:
    """Read a JSON scalar; what is none is a string."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, dict | list) else value


def _kind_of(value: object) -> str:
    """Name what a value is; null is any value."""
    match value:
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "value"

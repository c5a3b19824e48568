"""Conditions as SQL over the table of rows.

Owns the compiler. Pure. Every expression that it writes is 0 or 1, never NULL, so that NOT means
not. What a request holds is always a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vecserve_server.domain.collections import FieldType
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
from vecserve_server.domain.instants import instant_sql
from vecserve_server.storage.payloads.payload_sql import (
    keyword_sql,
    number_sql,
    payload_path,
    spelling,
)

_LAST_BEFORE_SURROGATES, _FIRST_AFTER = 0xD7FF, 0xE000
_LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Sql:
    """A boolean expression over one row, and the values of its question marks."""

    text: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedField:
    """A declared field and the generated column that holds its values."""

    type: FieldType
    column: str


Indexed = Mapping[str, IndexedField]


def compile_condition(condition: Condition, indexed: Indexed) -> Sql:
    """Write the condition as SQL that uses the columns of `indexed` fields where it can."""
    if isinstance(condition, AllOf):
        return _joined(" AND ", condition.parts, indexed)
    if isinstance(condition, AnyOf):
        return _joined(" OR ", condition.parts, indexed)
    if isinstance(condition, Not):
        part = compile_condition(condition.part, indexed)
        return Sql(f"(NOT {part.text})", part.values)
    return _test(condition, indexed.get(condition.field))


def after_all_with_prefix(prefix: str) -> str:
    """Return a text above every text that begins with `prefix`, and below all other larger ones.

    One of the characters must have a successor.
    """
    kept = prefix.rstrip(chr(_LAST_CODE_POINT))
    last = ord(kept[-1])
    following = _FIRST_AFTER if last == _LAST_BEFORE_SURROGATES else last + 1
    return kept[:-1] + chr(following)


def _joined(operator: str, parts: Sequence[Condition], indexed: Indexed) -> Sql:
    compiled = [compile_condition(part, indexed) for part in parts]
    text = operator.join(part.text for part in compiled)
    return Sql(f"({text})", tuple(value for part in compiled for value in part.values))


def _test(
    condition: OneOf | NumberIn | InstantIn | Exists | StartsWith, index: IndexedField | None
) -> Sql:
    path = payload_path(condition.field)
    if isinstance(condition, OneOf):
        return _one_of(condition, path, index)
    if isinstance(condition, NumberIn):
        kinds = (FieldType.INTEGER, FieldType.NUMBER)
        return _in_bounds(condition.bounds, _operand(index, kinds, number_sql, path))
    if isinstance(condition, InstantIn):
        return _in_bounds(
            condition.bounds, _operand(index, (FieldType.DATETIME,), _instant_sql, path)
        )
    if isinstance(condition, StartsWith):
        first = spelling(condition.beginning)[:-1]
        bounds = Bounds(gte=first, lt=after_all_with_prefix(first))
        return _in_bounds(bounds, _operand(index, (FieldType.KEYWORD,), keyword_sql, path))
    there = "IS NOT NULL" if condition.there else "IS NULL"
    return Sql(f"(json_type(payload, ?) {there})", (path,))


@dataclass(frozen=True, slots=True)
class _Operand:
    text: str
    values: tuple[str, ...]

    def satisfies(self, comparison: str, values: Sequence[Any]) -> Sql:
        # The first half makes it 0 where the second is NULL, and lets a partial index be used.
        return Sql(
            f"({self.text} IS NOT NULL AND {self.text} {comparison})",
            (*self.values, *self.values, *map(_bindable, values)),
        )


def _operand(
    index: IndexedField | None,
    kinds: Sequence[FieldType],
    of_payload: Callable[[str], str],
    path: str,
) -> _Operand:
    if index is not None and index.type in kinds:
        return _Operand(index.column, ())
    expression = of_payload("?")
    return _Operand(f"({expression})", (path,) * expression.count("?"))


def _instant_sql(path: str) -> str:
    # The limit keeps SQLite from writing the expression in place of each name.
    spelt = f"(SELECT trim({keyword_sql(path)}, '\"') AS spelt LIMIT 1)"
    return f"SELECT {instant_sql('spelt')} FROM {spelt}"  # noqa: S608


def _in_bounds(bounds: Bounds[Any], operand: _Operand) -> Sql:
    parts = [
        operand.satisfies(f"{operator} ?", [bound]) for operator, bound in bounds.comparisons()
    ]
    text = " AND ".join(part.text for part in parts)
    return Sql(f"({text})", tuple(value for part in parts for value in part.values))


def _one_of(condition: OneOf, path: str, index: IndexedField | None) -> Sql:
    by_type: dict[str, list[Any]] = {}
    for value in condition.values:
        by_type.setdefault(_json_type(value), []).append(value)
    parts = []
    if texts := by_type.get("text"):
        operand = _operand(index, (FieldType.KEYWORD,), keyword_sql, path)
        parts.append(operand.satisfies(_among(texts), [spelling(text) for text in texts]))
    if numbers := by_type.get("number"):
        kinds = (FieldType.INTEGER, FieldType.NUMBER)
        operand = _operand(index, kinds, number_sql, path)
        parts.append(operand.satisfies(_among(numbers), numbers))
    if booleans := by_type.get("boolean"):
        parts.append(_booleans(booleans, path, index))
    if "null" in by_type:
        parts.append(Sql("(json_type(payload, ?) IS 'null')", (path,)))
    text = " OR ".join(part.text for part in parts)
    return Sql(f"({text})", tuple(value for part in parts for value in part.values))


def _booleans(booleans: Sequence[bool], path: str, index: IndexedField | None) -> Sql:
    if index is not None and index.type is FieldType.BOOLEAN:
        operand = _Operand(index.column, ())
        return operand.satisfies(_among(booleans), [int(value) for value in booleans])
    names = sorted({"true" if value else "false" for value in booleans})
    tests = " OR ".join(f"json_type(payload, ?) IS '{name}'" for name in names)
    return Sql(f"({tests})", (path,) * len(names))


def _among(values: Sequence[object]) -> str:
    return f"IN ({', '.join('?' * len(values))})"


def _bindable(value: Any) -> Any:
    # As SQLite reads an integer of a payload that has more than 64 bits.
    is_large = isinstance(value, int) and not -(2**63) <= value < 2**63
    return float(value) if is_large else value


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"

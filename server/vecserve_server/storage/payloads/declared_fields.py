"""What a collection's declared fields add to the table of rows: columns, indexes, a word index.

Owns their definitions and brings a file in line with them. Must not know filters or queries.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis
from vecserve_server.storage.files.sqlite_file import write_transaction
from vecserve_server.storage.payloads import word_table
from vecserve_server.storage.payloads.filter_sql import IndexedField
from vecserve_server.storage.payloads.payload_sql import (
    boolean_sql,
    instant_of_spelling_sql,
    keyword_sql,
    literal,
    number_sql,
    payload_path,
    text_sql,
)
from vecserve_server.storage.payloads.word_table import LEXICAL_TABLE

_TABLE = """
    CREATE TABLE IF NOT EXISTS declared (name TEXT PRIMARY KEY, definition TEXT NOT NULL) STRICT
"""
_COLUMN_TYPES: Mapping[FieldType, str] = {
    FieldType.KEYWORD: "TEXT",
    # SQLite's REAL would round integers above 2^53.
    FieldType.INTEGER: "ANY",
    FieldType.NUMBER: "ANY",
    FieldType.BOOLEAN: "INTEGER",
    FieldType.DATETIME: "INTEGER",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The columns that filters may use, and what goes into the word index."""

    indexed: Mapping[str, IndexedField]
    texts: tuple[str, ...]
    """SQL over one row for each column of the word index. Empty: there is none."""
    analysis: TextAnalysis

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the word index's columns."""
        return tuple(_text_column(number) for number in range(len(self.texts)))


@dataclass(frozen=True, slots=True)
class _Object:
    """Something in the file: how it is made, and how it is removed again."""

    name: str
    create: tuple[str, ...]
    drop: tuple[str, ...]

    @property
    def definition(self) -> str:
        return json.dumps([self.create, self.drop])


def declare(
    connection: sqlite3.Connection, fields: Sequence[FieldSpec], analysis: TextAnalysis
) -> Declared:
    """Give the file the columns and indexes of `fields`, in one transaction, unless it has them.

    A definition that changed is made anew, from the rows; the word index is only begun, see
    `word_table`. Raises sqlite3.Error.
    """
    wanted = {made.name: made for made in _objects(fields, analysis)}
    with write_transaction(connection):
        connection.execute(_TABLE)
        found = _found(connection)
        for name in list(reversed(found)):
            if name not in wanted or wanted[name].definition != found[name].definition:
                _remove(connection, found[name], has_successor=name in wanted)
                connection.execute("DELETE FROM declared WHERE name = ?", (name,))
                del found[name]
        for name, made in wanted.items():
            if name not in found:
                _run(connection, made.create)
                if name == LEXICAL_TABLE:
                    word_table.expect_rows(connection)
                row = (name, made.definition)
                connection.execute("INSERT INTO declared (name, definition) VALUES (?, ?)", row)
    return Declared(indexed=dict(_indexed(fields)), texts=_texts(fields), analysis=analysis)


def _remove(connection: sqlite3.Connection, found: _Object, *, has_successor: bool) -> None:
    if found.name == LEXICAL_TABLE and has_successor:
        word_table.retire(connection)
        return
    _run(connection, found.drop)
    if found.name == LEXICAL_TABLE:
        word_table.forget(connection)


def _objects(fields: Sequence[FieldSpec], analysis: TextAnalysis) -> Iterator[_Object]:
    for number, field in enumerate(fields):
        if field.type is not FieldType.TEXT:
            yield _column(number, field)
    if texts := _texts(fields):
        yield _lexical(texts, analysis)


def _column(number: int, field: FieldSpec) -> _Object:
    name, spelt = _column_name(number), f"{_column_name(number)}_spelt"
    path = literal(payload_path(field.name))
    columns = {name: (_COLUMN_TYPES[field.type], _value_sql(field.type, path))}
    if field.type is FieldType.DATETIME:
        columns = {
            spelt: ("TEXT", _if_json(keyword_sql(path))),
            name: ("INTEGER", instant_of_spelling_sql(spelt)),
        }
    create = tuple(
        f"ALTER TABLE rows ADD COLUMN {column} {kind} GENERATED ALWAYS AS ({value}) VIRTUAL"
        for column, (kind, value) in columns.items()
    )
    index = f"CREATE INDEX rows_{name} ON rows ({name}) WHERE {name} IS NOT NULL"
    drop = tuple(f"ALTER TABLE rows DROP COLUMN {column}" for column in reversed(columns))
    return _Object(name, (*create, index), (f"DROP INDEX rows_{name}", *drop))


def _value_sql(kind: FieldType, path: str) -> str:
    if kind is FieldType.KEYWORD:
        return _if_json(keyword_sql(path))
    return _if_json(boolean_sql(path) if kind is FieldType.BOOLEAN else number_sql(path))


def _if_json(value: str) -> str:
    # A damaged payload must not fail every statement that changes its row.
    return f"CASE WHEN json_valid(payload) THEN {value} END"


def _lexical(texts: Sequence[str], analysis: TextAnalysis) -> _Object:
    columns = ", ".join(_text_column(number) for number in range(len(texts)))
    create = (word_table.create_sql(columns, analysis),)
    return _Object(LEXICAL_TABLE, create, (word_table.drop_sql(),))


def _indexed(fields: Sequence[FieldSpec]) -> Iterator[tuple[str, IndexedField]]:
    for number, field in enumerate(fields):
        if field.type is not FieldType.TEXT:
            yield field.name, IndexedField(type=field.type, column=_column_name(number))


def _texts(fields: Sequence[FieldSpec]) -> tuple[str, ...]:
    return tuple(
        _if_json(text_sql(literal(payload_path(field.name))))
        for field in fields
        if field.type is FieldType.TEXT
    )


def _column_name(number: int) -> str:
    return f"field_{number}"


def _text_column(number: int) -> str:
    return f"text_{number}"


def _found(connection: sqlite3.Connection) -> dict[str, _Object]:
    found = {}
    for name, definition in connection.execute(
        "SELECT name, definition FROM declared ORDER BY rowid"
    ):
        try:
            create, drop = json.loads(definition)
            found[name.decode()] = _Object(name.decode(), tuple(create), tuple(drop))
        except (AttributeError, TypeError, ValueError) as error:
            raise sqlite3.DatabaseError(f"a declared field is damaged: {error}") from error
    return found


def _run(connection: sqlite3.Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(statement)

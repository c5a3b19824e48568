"""Whether a file of rows holds what was written, in every part that an answer comes from.

Owns the questions and the judgement whether the rows themselves are damaged or what was made of
them. Reads one moment of the file; what is made for the check is temporary. Must not know who
mends it.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.collections import FieldSpec
from vecserve_server.storage.files.sqlite_file import migrate, open_read_only, watched
from vecserve_server.storage.payloads.declared_fields import Declared, declare
from vecserve_server.storage.payloads.word_checks import word_problems
from vecserve_server.storage.payloads.word_index import WordIndex
from vecserve_server.storage.rows.row_records import COLUMNS, problem_of
from vecserve_server.storage.rows.row_schema import MIGRATIONS
from vecserve_server.storage.rows.sources import intact

MAX_PROBLEMS = 1000
_MAX_OF_SQLITE = 100
_NAMED_SEQS = 100


class Damaged(StrEnum):
    """Which part of a file a problem is of."""

    DERIVED = "derived"
    """What can be made anew from the rows."""
    RECORD = "record"
    """A row or its text is not what was written."""
    LOST = "lost"
    """A row that was written cannot be found, or not all of them can be read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence, and what it is about."""

    text: str
    part: Damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """What a check of a file of rows found."""

    seqs: NDArray[np.int64]
    """Of all rows, int64 [N], ascending."""
    problems: Sequence[Problem]

    def has(self, *parts: Damaged) -> bool:
        """Tell whether a problem is of one of these parts."""
        return any(problem.part in parts for problem in self.problems)


def check_file(
    path: Path,
    *,
    dim: int,
    fields: Sequence[FieldSpec],
    declared: Declared,
    words: WordIndex | None,
    is_late: Callable[[], bool] | None = None,
) -> FileCheck:
    """Compare every record with its checksum, and everything that was made of them with them.

    Raises sqlite3.Error if the file cannot be opened, or once `is_late`.
    """
    with closing(open_read_only(path)) as connection, watched(connection, is_late):
        connection.execute("BEGIN")
        parts: list[tuple[Damaged, str, Callable[[], Iterator[str]]]] = [
            (Damaged.DERIVED, "schema", lambda: _schema_problems(connection, fields, declared)),
            (Damaged.DERIVED, "file", lambda: _structure_problems(connection, declared)),
            (Damaged.LOST, "rows", lambda: _lost_rows(connection)),
            (Damaged.RECORD, "rows", lambda: _record_problems(connection, dim)),
            (Damaged.RECORD, "texts of rows", lambda: _source_problems(connection)),
            (Damaged.DERIVED, "removed", lambda: _removed_problems(connection)),
        ]
        if words is not None:
            parts.append((Damaged.DERIVED, "word index", lambda: word_problems(connection, words)))
        found = [
            Problem(text, part)
            for part, name, look in parts
            for text, part in islice(_guarded(part, name, look), MAX_PROBLEMS)
        ]
        return FileCheck(seqs=_seqs(connection), problems=found)


def _guarded(
    part: Damaged, name: str, look: Callable[[], Iterator[str]]
) -> Iterator[tuple[str, Damaged]]:
    """Let what cannot be read be a problem like others."""
    try:
        for text in look():
            yield text, part
    except (sqlite3.Error, UnicodeDecodeError) as error:
        _raise_if_stopped(error)
        unread = part if part is Damaged.DERIVED else Damaged.LOST
        yield f"{name}: cannot be read: {error}", unread


def _raise_if_stopped(error: Exception) -> None:
    if getattr(error, "sqlite_errorname", "").startswith("SQLITE_INTERRUPT"):
        raise error


def _seqs(connection: sqlite3.Connection) -> NDArray[np.int64]:
    try:
        found = connection.execute("SELECT seq FROM rows NOT INDEXED ORDER BY seq")
        return np.fromiter((seq for (seq,) in found), np.int64)
    except sqlite3.Error as error:
        _raise_if_stopped(error)
        return np.empty(0, np.int64)  # told as a problem of the rows


def _schema_problems(
    connection: sqlite3.Connection, fields: Sequence[FieldSpec], declared: Declared
) -> Iterator[str]:
    """Compare the tables and indexes with those of a new file."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        new.text_factory = bytes
        migrate(new, Path(":memory:"), MIGRATIONS)
        declare(new, fields, declared.analysis)
        wanted = _schema(new)
    found = _schema(connection)
    for name, tokens in wanted.items():
        if name not in found:
            yield f"schema: {name} is missing"
        elif found[name] != tokens:
            yield f"schema: {name} is not defined as it was"


def _schema(connection: sqlite3.Connection) -> dict[str, Counter[bytes]]:
    """Read what is defined, by name; the order of columns depends on a file's history."""
    statement = "SELECT name, sql FROM main.sqlite_master WHERE sql IS NOT NULL"
    return {
        name.decode(errors="replace"): Counter(re.findall(rb"\w+|[^\w\s]", sql))
        for name, sql in connection.execute(statement)
    }


def _structure_problems(connection: sqlite3.Connection, declared: Declared) -> Iterator[str]:
    """Ask SQLite; it also compares every index with the rows."""
    names = {f"rows_{field.column}": f"field {name!r}" for name, field in declared.indexed.items()}
    names["sqlite_autoindex_rows_1"] = "ids"
    for (finding,) in connection.execute(f"PRAGMA integrity_check({_MAX_OF_SQLITE})"):
        text = finding.decode(errors="replace")
        if text != "ok":
            # The number of a row is its seq.
            text = re.sub(r"\brow (\d+) ", r"row seq \1 ", text)
            yield "file: " + re.sub(
                r"index (\w+)", lambda found: _index_name(found.group(1), names), text
            )


def _index_name(name: str, names: dict[str, str]) -> str:
    return f"the index of {names[name]}" if name in names else f"index {name}"


def _lost_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Find rows that the index of ids knows, though neither their seq nor their id is there."""
    statement = """
        SELECT keys.seq, keys.id FROM (
            SELECT seq, id FROM rows INDEXED BY sqlite_autoindex_rows_1 ORDER BY id
        ) AS keys
        WHERE NOT EXISTS (SELECT 1 FROM rows NOT INDEXED WHERE rows.seq = keys.seq)
    """
    try:
        missing = dict(connection.execute(statement).fetchall())
    except sqlite3.DatabaseError:
        return  # the index itself cannot be read, which SQLite's own check has told
    if not missing:
        return
    there = {row_id for (row_id,) in connection.execute("SELECT id FROM rows NOT INDEXED")}
    for seq, row_id in missing.items():
        if row_id not in there:
            yield f"row seq {seq}, id {row_id.decode(errors='replace')!r}: its record is lost"


def _record_problems(connection: sqlite3.Connection, dim: int) -> Iterator[str]:
    statement = f"SELECT {COLUMNS} FROM rows NOT INDEXED ORDER BY seq"  # noqa: S608
    for columns in connection.execute(statement):
        if problem := problem_of(columns, dim=dim):
            yield problem


def _source_problems(connection: sqlite3.Connection) -> Iterator[str]:
    statement = """
        SELECT sources.seq, content, sources.checksum, rows.seq
        FROM sources LEFT JOIN rows ON rows.seq = sources.seq
    """
    for seq, content, checksum, of_row in connection.execute(statement):
        if not intact(seq, content, checksum):
            yield f"row seq {seq}: the checksum of its text is wrong"
        elif of_row is None:
            yield f"row seq {seq}: its text is there, the row is not"


def _removed_problems(connection: sqlite3.Connection) -> Iterator[str]:
    statement = "SELECT seq FROM removed WHERE seq IN (SELECT seq FROM rows) LIMIT ?"
    for (seq,) in connection.execute(statement, (_NAMED_SEQS,)):
        yield f"row seq {seq}: is there and counts as removed"

"""The word index's table: how it is made, and how rows that were there before come into it.

Owns its definition, its successor where the definition changes, and the record of what is still
missing. A table that is made for rows that exist is filled piece by piece, each piece in a
transaction of bounded size, and the table before it is emptied likewise; killed at any point, that
goes on where it stopped. Must not know queries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from vecserve_server.domain.collections import TextAnalysis, Tokeniser
from vecserve_server.storage.payloads.payload_sql import literal
from vecserve_server.storage.payloads.terms import PUNCTUATION, VERSION

LEXICAL_TABLE = "words"
_RETIRED = "words_retired"
_PENDING = """
    CREATE TABLE IF NOT EXISTS words_pending (
        filled_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL
    ) STRICT
"""
FILLED_AT_ONCE = 500
"""Rows of one transaction."""
FILLED_CHARACTERS = 2 << 20
"""Characters of one transaction's payloads; a single row may have more."""
_EMPTIED_AT_ONCE = 500


class Pending(NamedTuple):
    """Rows with seqs in between, the last included, are not in the table yet."""

    filled_seq: int
    last_seq: int

    def has(self, seq: int) -> bool:
        """Tell whether a row of this seq is missing."""
        return self.filled_seq < seq <= self.last_seq


def create_sql(text_columns: str, analysis: TextAnalysis) -> str:
    """Write the statement that makes the table; it changes whenever its content would."""
    # Without content of its own: the texts are in the payloads already.
    return (
        f"CREATE VIRTUAL TABLE {LEXICAL_TABLE} USING fts5({text_columns}, content='', "
        f"tokenize={literal(tokenize_sql(analysis))}) /* {VERSION} */"
    )


def tokenize_sql(analysis: TextAnalysis) -> str:
    """Name SQLite's tokeniser. Texts are cut before it sees them: it splits at spaces."""
    if analysis.tokeniser is Tokeniser.TRIGRAM:
        return f"ascii tokenchars {literal(PUNCTUATION)}"
    return "porter ascii" if analysis.porter else "ascii"


def drop_sql() -> str:
    """Write the statement that removes the table."""
    return f"DROP TABLE {LEXICAL_TABLE}"


def retire(connection: sqlite3.Connection) -> None:
    """Set the table aside, to be emptied piece by piece. Raises sqlite3.Error."""
    if _exists(connection, _RETIRED):
        connection.execute(f"DROP TABLE {_RETIRED}")
    connection.execute(f"ALTER TABLE {LEXICAL_TABLE} RENAME TO {_RETIRED}")


def expect_rows(connection: sqlite3.Connection) -> None:
    """Note that a new table lacks all rows that are there. Raises sqlite3.Error."""
    forget_pending(connection)
    connection.execute(_PENDING)
    connection.execute(
        "INSERT INTO words_pending SELECT 0, max(seq) FROM rows HAVING max(seq) IS NOT NULL"
    )


def forget_pending(connection: sqlite3.Connection) -> None:
    """Note that no row is missing. Raises sqlite3.Error."""
    if _exists(connection, "words_pending"):
        connection.execute("DELETE FROM words_pending")


def forget(connection: sqlite3.Connection) -> None:
    """Remove what is left beside a table that was dropped. Raises sqlite3.Error."""
    for name in (_RETIRED, "words_pending"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")


def pending(connection: sqlite3.Connection) -> Pending | None:
    """Tell which rows are missing. Raises sqlite3.Error."""
    if not _exists(connection, "words_pending"):
        return None
    found = connection.execute("SELECT filled_seq, last_seq FROM words_pending").fetchone()
    return Pending(*found) if found is not None else None


def fill_some(
    connection: sqlite3.Connection, missing: Pending, add: Callable[[Sequence[int]], None]
) -> None:
    """Take in the next missing rows, with `add`, inside a transaction. Raises sqlite3.Error."""
    found = connection.execute(
        "SELECT seq, length(payload) FROM rows WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (*missing, FILLED_AT_ONCE),
    ).fetchall()
    totals = accumulate(characters for _, characters in found)
    fitting = sum(total <= FILLED_CHARACTERS for total in totals)
    seqs = [seq for seq, _ in found][: max(1, fitting)]
    add(seqs)
    if not seqs or seqs[-1] >= missing.last_seq:
        forget_pending(connection)
    else:
        connection.execute("UPDATE words_pending SET filled_seq = ?", (seqs[-1],))


def has_retired(connection: sqlite3.Connection) -> bool:
    """Tell whether a table was set aside. Raises sqlite3.Error."""
    return _exists(connection, _RETIRED)


def empty_some(connection: sqlite3.Connection) -> None:
    """Take away a piece of the table set aside, at last itself. Raises sqlite3.Error."""
    for part in ("data", "docsize"):
        # The structure comes first; FTS5 reads it when the table is dropped.
        gone = connection.execute(
            f"DELETE FROM {_RETIRED}_{part} WHERE id IN "  # noqa: S608
            f"(SELECT id FROM {_RETIRED}_{part} WHERE id > 10 LIMIT {_EMPTIED_AT_ONCE})"
        )
        if gone.rowcount > 0:
            return
    connection.execute(f"DROP TABLE {_RETIRED}")


def _exists(connection: sqlite3.Connection, name: str) -> bool:
    statement = "SELECT 1 FROM main.sqlite_master WHERE name = ?"
    return connection.execute(statement, (name,)).fetchone() is not None

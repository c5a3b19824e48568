"""Whether the word index holds what the rows do.

Owns the comparison. FTS5 can compare an index with the texts that it was made of, but only for
whoever may write, and this index has no texts. So a temporary copy of its tables gets the rows as
its texts, and FTS5 compares that; nobody waits meanwhile. Must not know how texts are cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from vecserve_server.storage.payloads.payload_sql import literal
from vecserve_server.storage.payloads.word_index import WordIndex
from vecserve_server.storage.payloads.word_table import LEXICAL_TABLE, tokenize_sql

_COPY, _TEXTS, _VOCABULARY = "checked_words", "checked_texts", "checked_terms"


def word_problems(connection: sqlite3.Connection, words: WordIndex) -> Iterator[str]:
    """Compare the index with the rows, on a connection of its own that reads one moment.

    Rows that are not expected to be in it yet are left out. Raises sqlite3.Error where it cannot
    be read.
    """
    _copy(connection, words)
    try:
        connection.execute(
            f"INSERT INTO temp.{_COPY} ({_COPY}, rank) VALUES ('integrity-check', 1)"  # noqa: S608
        )
    except sqlite3.DatabaseError as error:
        yield f"word index: does not hold the words of the rows: {error}"
        return
    if not _finds_its_terms(connection):
        yield "word index: does not find all of its words"


def _copy(connection: sqlite3.Connection, words: WordIndex) -> None:
    words.teach(connection)
    missing = words.pending_in(connection)
    condition = "" if missing is None else f"WHERE NOT (seq > {missing[0]} AND seq <= {missing[1]})"
    texts = ", ".join(
        f"{text} AS {column}" for column, text in zip(words.columns, words.texts, strict=True)
    )
    columns = ", ".join(words.columns)
    connection.execute(
        f"CREATE TEMP VIEW {_TEXTS} AS SELECT seq, {texts} FROM main.rows {condition}"  # noqa: S608
    )
    connection.execute(
        f"CREATE VIRTUAL TABLE temp.{_COPY} USING fts5({columns}, content={literal(_TEXTS)}, "
        f"content_rowid='seq', tokenize={literal(tokenize_sql(words.analysis))})"
    )
    for part in ("config", "docsize", "idx", "data"):
        connection.execute(f"DELETE FROM temp.{_COPY}_{part}")  # noqa: S608
        connection.execute(
            f"INSERT INTO temp.{_COPY}_{part} SELECT * FROM main.{LEXICAL_TABLE}_{part}"  # noqa: S608
        )


def _finds_its_terms(connection: sqlite3.Connection) -> bool:
    """Look every term up; how terms are found is not among what FTS5 compares."""
    connection.execute(
        f"CREATE VIRTUAL TABLE temp.{_VOCABULARY} USING fts5vocab(main, {LEXICAL_TABLE}, row)"
    )
    statement = f"""
        SELECT 1 FROM {_VOCABULARY} AS listed WHERE cnt IS NOT (
            SELECT cnt FROM {_VOCABULARY} AS found WHERE found.term = listed.term
        ) LIMIT 1
    """  # noqa: S608
    return connection.execute(statement).fetchone() is None

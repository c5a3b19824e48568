"""Lexical search: BM25 over the declared text fields of a collection's rows.

Owns the word index's table, how a text becomes a query, and the bound on a query's work. Must not
know payloads beyond the SQL that it is given.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.storage.declared_fields import LEXICAL_TABLE, Declared
from vecserve_server.storage.filter_sql import Sql

MAX_TERMS = 32
"""Different words of a query that are looked for."""
MAX_TEXT_CHARACTERS = 4096
"""Beginning of a text in which words are looked for."""
SCORED_ROWS = 20_000
"""Rows that one query may compare by BM25."""
_WORD = re.compile(r"[^\W_]+")
_KEPT_COUNTS = 4096
_SECURE_DELETE_SINCE = (3, 42)


@dataclass(frozen=True, slots=True, kw_only=True)
class LexicalMatches:
    """The best rows by BM25, best first, equal scores by seq."""

    seqs: NDArray[np.int64]
    """int64 [N]"""
    scores: NDArray[np.float64]
    """BM25, higher is better, float64 [N]."""
    terms: tuple[str, ...]
    """What was looked for."""
    dropped_terms: tuple[str, ...]
    """What was not: beyond the limit of terms, or too frequent."""
    is_cut: bool
    """True if more rows matched than may be scored; the oldest ones were."""


class WordIndex:
    """The word index of one file. Writes are for the writer thread, reads for any."""

    def __init__(self, declared: Declared, *, scored_rows: int = SCORED_ROWS) -> None:
        self._columns = declared.text_columns
        self._texts = ", ".join(declared.texts)
        self._scored_rows = scored_rows
        # Frequencies drift slowly; one that is counted anew when the collection has doubled does.
        self._counts: dict[str, tuple[int, int]] = {}

    def prepare(self, writer: sqlite3.Connection) -> None:
        """Set up a connection that writes. Raises sqlite3.Error."""
        if sqlite3.sqlite_version_info >= _SECURE_DELETE_SINCE:
            self._command(writer, "secure-delete", 1)

    def add(self, writer: sqlite3.Connection, seqs: Iterable[int]) -> None:
        """Take in rows that were just inserted."""
        writer.executemany(
            f"INSERT INTO {LEXICAL_TABLE} (rowid, {self._columns}) "  # noqa: S608
            f"SELECT seq, {self._texts} FROM rows WHERE seq = ?",
            ((seq,) for seq in seqs),
        )

    def remove(self, writer: sqlite3.Connection, seqs: Iterable[int]) -> None:
        """Forget rows that are about to be deleted; their payloads must still be there."""
        writer.executemany(
            f"INSERT INTO {LEXICAL_TABLE} ({LEXICAL_TABLE}, rowid, {self._columns}) "  # noqa: S608
            f"SELECT 'delete', seq, {self._texts} FROM rows WHERE seq = ?",
            ((seq,) for seq in seqs),
        )

    def erase_removed(self, writer: sqlite3.Connection) -> None:
        """Rewrite the index without a trace of the rows that were removed. Takes a while."""
        self._command(writer, "optimize")

    def search(
        self,
        reader: sqlite3.Connection,
        text: str,
        limit: int,
        *,
        row_count: int,
        where: Sql | None,
    ) -> LexicalMatches:
        """Find the `limit` best rows that hold any word of the text and satisfy `where`."""
        words = words_of(text[:MAX_TEXT_CHARACTERS])
        terms = self._affordable(reader, words[:MAX_TERMS], row_count)
        found = self._scored(reader, terms, limit, where) if terms else []
        return LexicalMatches(
            seqs=np.array([seq for seq, _, _ in found], np.int64),
            scores=np.array([-score for _, score, _ in found], np.float64),
            terms=tuple(terms),
            dropped_terms=tuple(word for word in words if word not in terms),
            is_cut=bool(found) and found[0][2] == self._scored_rows,
        )

    def _scored(
        self, reader: sqlite3.Connection, terms: Sequence[str], limit: int, where: Sql | None
    ) -> list[tuple[int, float, int]]:
        # CROSS JOIN keeps the word index outside: only rows with a word are looked at.
        joined, values = "", ()
        if where is not None:
            joined, values = f"CROSS JOIN rows ON rows.seq = {LEXICAL_TABLE}.rowid", where.values
        condition = f"AND {where.text}" if where is not None else ""
        statement = f"""
            SELECT seq, score, count(*) OVER () FROM (
                SELECT {LEXICAL_TABLE}.rowid AS seq, bm25({LEXICAL_TABLE}) AS score
                FROM {LEXICAL_TABLE} {joined}
                WHERE {LEXICAL_TABLE} MATCH ? {condition} LIMIT ?
            ) ORDER BY score, seq LIMIT ?
        """  # noqa: S608
        asked = (match_any(terms), *values, self._scored_rows, limit)
        return reader.execute(statement, asked).fetchall()

    def _affordable(
        self, reader: sqlite3.Connection, words: Sequence[str], row_count: int
    ) -> list[str]:
        """Keep the rarest words whose rows together may be scored, and always one of them."""
        if row_count * len(words) <= self._scored_rows:
            return list(words)
        counts = {word: self._count(reader, word, row_count) for word in words}
        kept: set[str] = set()
        spent = 0
        for word in sorted(words, key=lambda word: counts[word]):
            spent += counts[word]
            if kept and spent > self._scored_rows:
                break
            kept.add(word)
        return [word for word in words if word in kept]

    def _count(self, reader: sqlite3.Connection, word: str, row_count: int) -> int:
        """Count the rows with a word, roughly, and no further than matters."""
        count, counted_at = self._counts.get(word, (0, 0))
        if counted_at <= row_count <= 2 * counted_at:
            return count
        statement = f"""
            SELECT count(*) FROM (
                SELECT 1 FROM {LEXICAL_TABLE} WHERE {LEXICAL_TABLE} MATCH ? LIMIT ?
            )
        """  # noqa: S608
        asked = (match_any([word]), self._scored_rows + 1)
        count = int(reader.execute(statement, asked).fetchone()[0])
        if len(self._counts) >= _KEPT_COUNTS:
            self._counts = {}
        self._counts[word] = (count, row_count)
        return count

    def _command(self, writer: sqlite3.Connection, name: str, rank: int | None = None) -> None:
        statement = f"INSERT INTO {LEXICAL_TABLE} ({LEXICAL_TABLE}, rank) VALUES (?, ?)"  # noqa: S608
        writer.execute(statement, (name, rank))


def words_of(text: str) -> list[str]:
    """Return the different words of a text in their order, in lower case."""
    return list(dict.fromkeys(match.group().lower() for match in _WORD.finditer(text)))


def match_any(words: Sequence[str]) -> str:
    """Write the FTS5 query for rows with any of the words; quoted, none of it is syntax."""
    return " OR ".join(f'"{word}"' for word in words)

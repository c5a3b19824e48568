"""Lexical search: BM25 over the declared text fields of a collection's rows.

Owns what is written into the word index's table and the bound on a query's work. Must not know how
texts are cut, nor payloads beyond the SQL that it is given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.errors import Starting
from vecserve_server.storage.payloads import word_table
from vecserve_server.storage.payloads.declared_fields import Declared
from vecserve_server.storage.payloads.filter_sql import Sql
from vecserve_server.storage.payloads.terms import Term, Terms
from vecserve_server.storage.payloads.word_table import LEXICAL_TABLE

MAX_TERMS = 32
"""Different words of a query that are looked for."""
MAX_TEXT_CHARACTERS = 4096
"""Beginning of a text in which words are looked for."""
SCORED_ROWS = 20_000
"""Rows that one query may compare by BM25."""
_FUNCTION = "index_terms"
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
    """What was not: beyond the limit of terms, too frequent, or without letters and digits."""
    is_cut: bool
    """True if more rows matched than may be scored; the oldest ones were."""


class WordIndex:
    """The word index of one file. Writes are for the writer thread, reads for any.

    `texts` is SQL over one row for what each of the `columns` holds, on a connection that was
    taught.
    """

    def __init__(self, declared: Declared, *, scored_rows: int = SCORED_ROWS) -> None:
        self.analysis = declared.analysis
        self.columns = declared.text_columns
        # As a blob: a damaged payload may hold what is no UTF-8.
        self.texts = tuple(f"{_FUNCTION}(CAST({text} AS BLOB))" for text in declared.texts)
        self._columns, self._texts = ", ".join(self.columns), ", ".join(self.texts)
        self._terms = Terms(declared.analysis)
        self._scored_rows = scored_rows
        # Frequencies drift slowly; one that is counted anew when the collection has doubled does.
        self._counts: dict[str, tuple[int, int]] = {}
        self._pending: word_table.Pending | None = None
        self._has_retired = False

    def prepare(self, writer: sqlite3.Connection) -> None:
        """Set up a connection that writes. Raises sqlite3.Error."""
        self.teach(writer)
        if sqlite3.sqlite_version_info >= _SECURE_DELETE_SINCE:
            self._command(writer, "secure-delete", 1)
        self.refresh(writer)

    def teach(self, connection: sqlite3.Connection) -> None:
        """Let a connection's statements cut texts as the index does."""
        connection.create_function(_FUNCTION, 1, self._of_row, deterministic=True)

    @property
    def pending(self) -> word_table.Pending | None:
        """Which rows are not in the index yet."""
        return self._pending

    def pending_in(self, reader: sqlite3.Connection) -> word_table.Pending | None:
        """Tell which rows are not in the index at the moment that a connection reads."""
        return word_table.pending(reader)

    @property
    def is_unfinished(self) -> bool:
        """Whether rows are missing, or an index that this one took the place of is still there."""
        return self._pending is not None or self._has_retired

    def refresh(self, writer: sqlite3.Connection) -> None:
        """Note what is unfinished, after a transaction that may have changed it."""
        self._pending = word_table.pending(writer)
        self._has_retired = word_table.has_retired(writer)

    def add(self, writer: sqlite3.Connection, seqs: Iterable[int]) -> None:
        """Take in rows that were just inserted."""
        writer.executemany(
            f"INSERT INTO {LEXICAL_TABLE} (rowid, {self._columns}) "  # noqa: S608
            f"SELECT seq, {self._texts} FROM rows WHERE seq = ?",
            ((seq,) for seq in seqs),
        )

    def remove(self, writer: sqlite3.Connection, seqs: Iterable[int]) -> None:
        """Forget rows that are about to be deleted; their payloads must still be there."""
        missing = self._pending
        writer.executemany(
            f"INSERT INTO {LEXICAL_TABLE} ({LEXICAL_TABLE}, rowid, {self._columns}) "  # noqa: S608
            f"SELECT 'delete', seq, {self._texts} FROM rows WHERE seq = ?",
            ((seq,) for seq in seqs if missing is None or not missing.has(seq)),
        )

    def continue_filling(self, writer: sqlite3.Connection) -> None:
        """Take in some of the rows that are missing, or remove some of the index before."""
        if self._pending is not None:
            word_table.fill_some(writer, self._pending, lambda seqs: self.add(writer, seqs))
        elif self._has_retired:
            word_table.empty_some(writer)

    def rebuild(self, writer: sqlite3.Connection) -> None:
        """Take in all rows anew. Takes a while."""
        self._command(writer, "delete-all")
        writer.execute(
            f"INSERT INTO {LEXICAL_TABLE} (rowid, {self._columns}) "  # noqa: S608
            f"SELECT seq, {self._texts} FROM rows"
        )
        word_table.forget_pending(writer)

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
        """Find the `limit` best rows that hold any term of the text and satisfy `where`."""
        cut = self._terms.of_query(text[:MAX_TEXT_CHARACTERS])
        terms = self._affordable(reader, cut.terms[:MAX_TERMS], row_count)
        found = self._scored(reader, terms, limit, where) if terms else []
        return LexicalMatches(
            seqs=np.array([seq for seq, _, _ in found], np.int64),
            scores=np.array([-score for _, score, _ in found], np.float64),
            terms=tuple(term.text for term in terms),
            dropped_terms=(
                *(term.text for term in cut.terms if term not in terms),
                *cut.unusable,
            ),
            is_cut=bool(found) and found[0][2] == self._scored_rows,
        )

    def _scored(
        self, reader: sqlite3.Connection, terms: Sequence[Term], limit: int, where: Sql | None
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
        self, reader: sqlite3.Connection, terms: Sequence[Term], row_count: int
    ) -> list[Term]:
        """Keep the rarest terms whose rows together may be scored, and always one of them."""
        if row_count * len(terms) <= self._scored_rows:
            return list(terms)
        counts = {term: self._count(reader, term, row_count) for term in terms}
        kept: set[Term] = set()
        spent = 0
        for term in sorted(terms, key=lambda term: counts[term]):
            spent += counts[term]
            if kept and spent > self._scored_rows:
                break
            kept.add(term)
        return [term for term in terms if term in kept]

    def _count(self, reader: sqlite3.Connection, term: Term, row_count: int) -> int:
        """Count the rows with a term, roughly, and no further than matters."""
        count, counted_at = self._counts.get(term.match, (0, 0))
        if counted_at <= row_count <= 2 * counted_at:
            return count
        statement = f"""
            SELECT count(*) FROM (
                SELECT 1 FROM {LEXICAL_TABLE} WHERE {LEXICAL_TABLE} MATCH ? LIMIT ?
            )
        """  # noqa: S608
        asked = (match_any([term]), self._scored_rows + 1)
        count = int(reader.execute(statement, asked).fetchone()[0])
        if len(self._counts) >= _KEPT_COUNTS:
            self._counts = {}
        self._counts[term.match] = (count, row_count)
        return count

    def _of_row(self, text: bytes | None) -> str | None:
        return None if text is None else self._terms.of_row(text.decode(errors="replace"))

    def _command(self, writer: sqlite3.Connection, name: str, rank: int | None = None) -> None:
        statement = f"INSERT INTO {LEXICAL_TABLE} ({LEXICAL_TABLE}, rank) VALUES (?, ?)"  # noqa: S608
        writer.execute(statement, (name, rank))


def match_any(terms: Sequence[Term]) -> str:
    """Write the FTS5 query for rows with any of the terms."""
    return " OR ".join(term.match for term in terms)


def refuse_if_pending(missing: word_table.Pending | None) -> None:
    """Raise Starting while rows are missing from the index: an answer would lack them."""
    if missing is not None:
        raise Starting(
            "collection: its word index is being built, up to seq "
            f"{missing.filled_seq} of {missing.last_seq}; ask again, or search by vectors"
        )

"""Which rows satisfy a condition, and which answer words.

Owns the read statements that a condition goes into. Must not know how rows are laid out beyond
their keys, nor checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.conditions import Condition
from vecserve_server.errors import FailedPrecondition
from vecserve_server.storage.payloads.declared_fields import Declared
from vecserve_server.storage.payloads.filter_sql import Sql, compile_condition
from vecserve_server.storage.payloads.word_index import LexicalMatches, WordIndex, refuse_if_pending
from vecserve_server.storage.rows.row_file import RowFile


class RowKey(NamedTuple):
    """What names a row, and one version of it."""

    id: str
    seq: int


class RowQueries:
    """Searches over the rows of one file, from any thread.

    `is_late` ends a read: every method raises DeadlineExceeded once it returns true, and
    Overloaded, CorruptData or StorageError as other reads do.
    """

    def __init__(self, *, readers: RowFile, declared: Declared, words: WordIndex | None) -> None:
        self._readers = readers
        self._declared = declared
        self._words = words

    def seqs(
        self, condition: Condition, *, is_late: Callable[[], bool] | None = None
    ) -> NDArray[np.int64]:
        """Return the seqs of all rows that match, ascending, int64 [N]."""
        where = self.compile(condition)
        statement = f"SELECT seq FROM rows WHERE {where.text}"  # noqa: S608
        with self._readers.snapshot(is_late=is_late) as connection:
            found = connection.execute(statement, where.values)
            # Sorted here: an ORDER BY would make SQLite prefer the table to an index.
            return np.sort(np.fromiter((seq for (seq,) in found), np.int64))

    def count(self, condition: Condition, *, is_late: Callable[[], bool] | None = None) -> int:
        """Count the rows that match."""
        where = self.compile(condition)
        statement = f"SELECT count(*) FROM rows WHERE {where.text}"  # noqa: S608
        with self._readers.snapshot(is_late=is_late) as connection:
            (count,) = connection.execute(statement, where.values).fetchone()
            return int(count)

    def keys(
        self,
        condition: Condition,
        *,
        after_seq: int,
        limit: int,
        is_late: Callable[[], bool] | None = None,
    ) -> list[RowKey]:
        """Return the keys of up to `limit` rows that match, ascending by seq from `after_seq`."""
        where = self.compile(condition)
        statement = (
            "SELECT id, seq FROM rows "  # noqa: S608
            f"WHERE seq > ? AND {where.text} ORDER BY seq LIMIT ?"
        )
        with self._readers.snapshot(is_late=is_late) as connection:
            found = connection.execute(statement, (after_seq, *where.values, limit)).fetchall()
        return [RowKey(encoded.decode(), seq) for encoded, seq in found]

    def lexical(
        self,
        text: str,
        limit: int,
        *,
        row_count: int,
        condition: Condition | None = None,
        is_late: Callable[[], bool] | None = None,
    ) -> LexicalMatches:
        """Find the `limit` best rows by BM25 that hold any word of the text.

        `row_count` is about how many rows there are. Raises FailedPrecondition if no field is
        declared as text, Starting while the word index is being built.
        """
        if self._words is None:
            raise FailedPrecondition("declares no field of type TEXT", field="collection")
        refuse_if_pending(self._words.pending)
        where = self.compile(condition) if condition is not None else None
        with self._readers.snapshot(is_late=is_late) as connection:
            return self._words.search(connection, text, limit, row_count=row_count, where=where)

    def compile(self, condition: Condition) -> Sql:
        """Write the condition as SQL over this file's rows."""
        return compile_condition(condition, self._declared.indexed)

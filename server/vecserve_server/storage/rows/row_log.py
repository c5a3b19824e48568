"""The rows of one collection: the truth from which everything in memory is rebuilt.

Owns the SQLite file: every transaction on it, and the totals. Must not know indexes or threads:
one thread commits, any thread reads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.atomic_files import fsync_folder
from vecserve_server.domain.collections import FieldSpec, TextAnalysis
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import InvalidArgument
from vecserve_server.storage.files.open_stores import OpenStores
from vecserve_server.storage.files.sqlite_file import in_slices, migrate, translated_errors, watched
from vecserve_server.storage.payloads.declared_fields import Declared, declare
from vecserve_server.storage.payloads.filter_sql import Sql
from vecserve_server.storage.payloads.word_index import WordIndex
from vecserve_server.storage.rows.operations import Committed, Operation, Plan, plan
from vecserve_server.storage.rows.row_checks import FileCheck, check_file
from vecserve_server.storage.rows.row_file import RowFile
from vecserve_server.storage.rows.row_keys import check_ids, existing_seqs, seqs_of
from vecserve_server.storage.rows.row_models import name_model, read_models
from vecserve_server.storage.rows.row_queries import RowQueries
from vecserve_server.storage.rows.row_records import (
    COLUMNS,
    read_record,
    vectors_to_store,
    write_record,
)
from vecserve_server.storage.rows.row_removal import remove_rows
from vecserve_server.storage.rows.row_schema import MIGRATIONS
from vecserve_server.storage.rows.row_totals import last_seq, row_count
from vecserve_server.storage.rows.row_upkeep import copy_into, rewrite
from vecserve_server.storage.rows.sources import insert_sources, read_sources, read_sources_of

_PAGE = f"SELECT {COLUMNS} FROM rows WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_FORGOTTEN_AT_ONCE = 1000
NO_ANALYSIS = TextAnalysis()


class RowLog:
    """One collection's rows in one file; a row gets a new seq each time it is written."""

    def __init__(
        self,
        *,
        file: RowFile,
        writer: sqlite3.Connection,
        dim: int,
        model_digest: str,
        fields: Sequence[FieldSpec],
        declared: Declared,
    ) -> None:
        self._path = file.path
        self._file = file
        self._dim = dim
        self._model_digest = model_digest
        self._fields = fields
        self._declared = declared
        self._words = WordIndex(declared) if declared.texts else None
        self.queries = RowQueries(readers=file, declared=declared, words=self._words)
        if self._words is not None:
            self._words.prepare(writer)
            file.taught_by(self._words.teach)
        self._count: int = row_count(writer)
        self._last_seq = last_seq(writer, file.path)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        dim: int,
        model_digest: str,
        readers: int = 4,
        model_name: str = "",
        model_version: str = "",
        fields: Sequence[FieldSpec] = (),
        text_analysis: TextAnalysis = NO_ANALYSIS,
        stores: OpenStores | None = None,
    ) -> RowLog:
        """Open or create the file and bring its schema up to date, with the declared `fields`.

        `stores` may close it while nobody uses it. Raises ConfigError if a newer vecserve wrote
        it, CorruptData, StorageError.
        """
        # One that nobody shares is never closed before its time.
        stores = OpenStores(limit=1) if stores is None else stores
        file = RowFile(path, readers=readers, stores=stores)
        try:
            with file.used() as writer, translated_errors(path):
                migrate(writer, path, MIGRATIONS)
                name_model(writer, model_digest, model_name, model_version)
                declared = declare(writer, fields, text_analysis)
                fsync_folder(path.parent)
                log = cls(
                    file=file,
                    writer=writer,
                    dim=dim,
                    model_digest=model_digest,
                    fields=fields,
                    declared=declared,
                )
                log.bring_words_forward()  # all of them where the rows are few
                file.remember()
                return log
        except BaseException:
            file.close()
            raise

    def commit(self, operations: Sequence[Operation]) -> Committed:
        """Apply the operations in order, in one transaction; durable when it returns.

        Only the writer thread may call it. Raises InvalidArgument, StorageError; then nothing was
        written and the log is as before.
        """
        with self._transaction() as writer:
            existing = dict(seqs_of(writer, [operation.id for operation in operations]))
            planned = plan(operations, existing=existing, last_seq=self._last_seq)
            vectors = self._write(writer, planned)
        return self._written(planned, vectors)

    def replicate(
        self, rows: Mapping[int, NewRow], removed: Sequence[int], *, last_seq: int
    ) -> Committed:
        """Write rows under the seqs that they have elsewhere, ascending, and remove others.

        A row replaces the one with its id. Seqs up to `last_seq` count as given out. In one
        transaction, durable when it returns; only the writer may call it. Raises as `commit`.
        """
        with self._transaction() as writer:
            replaced = dict(seqs_of(writer, [row.id for row in rows.values()])).values()
            gone = {*existing_seqs(writer, removed), *replaced} - set(rows)
            planned = Plan(
                seqs=tuple(rows),
                added=rows,
                removed=sorted(gone),
                last_seq=max(last_seq, self._last_seq),
            )
            vectors = self._write(writer, planned)
        return self._written(planned, vectors)

    def get(
        self, ids: Sequence[str], *, with_vectors: bool = False, source_bytes: int = 0
    ) -> dict[str, Row]:
        """Read rows by id, with sources of at most `source_bytes`; unknown ids are left out.

        Raises CorruptData, Overloaded, StorageError, and InvalidArgument for an impossible id or
        sources that take more.
        """
        check_ids(ids)
        rows = self._select("id", ids, with_vectors, source_bytes)
        return {row.id: row for row in rows}

    def by_seq(
        self, seqs: Sequence[int], *, with_vectors: bool = False, source_bytes: int = 0
    ) -> dict[int, Row]:
        """Read rows by seq as `get` does; seqs that no longer exist are left out."""
        rows = self._select("seq", seqs, with_vectors, source_bytes)
        return {row.seq: row for row in rows}

    def scan(
        self,
        *,
        after_seq: int,
        limit: int,
        with_vectors: bool = False,
        source_bytes: int = 0,
        condition: Condition | None = None,
        is_late: Callable[[], bool] | None = None,
    ) -> list[Row]:
        """Read up to `limit` rows with a seq above `after_seq`, ascending by seq.

        With sources where `source_bytes` is above 0; the row that exceeds it is the last. Raises
        CorruptData, Overloaded, StorageError, and DeadlineExceeded once `is_late`.
        """
        where = self.queries.compile(condition) if condition is not None else Sql("1")
        statement = (
            f"SELECT {COLUMNS} FROM rows WHERE seq > ? AND {where.text} "  # noqa: S608
            "ORDER BY seq LIMIT ?"
        )
        with self._file.snapshot(is_late=is_late) as connection:
            found = connection.execute(statement, (after_seq, *where.values, limit)).fetchall()
            seqs = [columns[0] for columns in found] if source_bytes else ()
            sources, has_all = read_sources_of(connection, seqs, limit_bytes=source_bytes)
        if not has_all:
            found = [columns for columns in found if columns[0] <= max(sources)]
        return [self._row(columns, with_vectors, sources.get(columns[0])) for columns in found]

    def removed(self) -> NDArray[np.int64]:
        """List the seqs of rows that are gone and not forgotten, int64 [N], ascending.

        Whoever keeps rows elsewhere learns here, after a restart, which of them have died.
        Raises CorruptData, Overloaded, StorageError.
        """
        with self._file.snapshot() as connection:
            found = connection.execute("SELECT seq FROM removed ORDER BY seq").fetchall()
        return np.fromiter((seq for (seq,) in found), np.int64, len(found))

    def forget_removed(self, seqs: NDArray[np.int64]) -> None:
        """Drop seqs from `removed`: nobody keeps their rows any more.

        Any thread may call it; it holds commits up for a few milliseconds at a time. Raises
        StorageError.
        """
        for start in range(0, len(seqs), _FORGOTTEN_AT_ONCE):
            some = seqs[start : start + _FORGOTTEN_AT_ONCE].tolist()
            with self._transaction() as writer:
                writer.executemany("DELETE FROM removed WHERE seq = ?", ((seq,) for seq in some))

    def models(self) -> list[ModelRef]:
        """List the weights that made the rows; name and version of old ones may be empty."""
        with self._file.snapshot() as connection:
            return read_models(connection)

    def scan_sources(self, *, after_seq: int, limit: int) -> tuple[list[Row], Mapping[int, Source]]:
        """Read rows with their vectors as `scan` does, and what they were made of, by seq.

        Both are of one moment. Rows that keep no text have no source. Raises as `scan` does.
        """
        with self._file.snapshot() as connection:
            found = connection.execute(_PAGE, (after_seq, limit)).fetchall()
            last_seq = found[-1][0] if found else after_seq
            sources = read_sources(connection, first_seq=after_seq + 1, last_seq=last_seq)
        return [self._row(columns, True) for columns in found], sources

    def without_source(self) -> list[str]:
        """Return the ids of some rows that keep no text. Raises Overloaded, StorageError."""
        statement = (
            "SELECT id FROM rows WHERE seq NOT IN (SELECT seq FROM sources) ORDER BY seq LIMIT 3"
        )
        with self._file.snapshot() as connection:
            return [row_id.decode() for (row_id,) in connection.execute(statement)]

    def seqs(self) -> NDArray[np.int64]:
        """Read the seqs of all rows, int64 [N], ascending. Raises Overloaded, StorageError."""
        with self._file.snapshot() as connection:
            found = connection.execute("SELECT seq FROM rows ORDER BY seq")
            return np.fromiter((seq for (seq,) in found), np.int64)

    def count(self) -> int:
        """Count the rows."""
        return self._count

    def last_seq(self) -> int:
        """Tell the highest seq ever given out, 0 if none."""
        return self._last_seq

    def close(self) -> None:
        """Close the file. No commit may be in progress."""
        self._file.close()

    def check_in_place(self) -> None:
        """Raise StoreGone unless the file lies where it was opened; what it holds is kept."""
        self._file.look()

    @property
    def lacks_words(self) -> bool:
        """Whether `bring_words_forward` has something to do."""
        return self._words is not None and self._words.is_unfinished

    def bring_words_forward(self) -> bool:
        """Take some more rows into a word index that was made after them; tell if more is to do.

        Any thread may call it; it holds commits up for some hundred milliseconds at most. Raises
        StorageError.
        """
        if self._words is None or not self.lacks_words:
            return False
        with self._transaction() as writer:
            self._words.continue_filling(writer)
        return self.lacks_words

    def copy_into(self, copy: Path, *, is_late: Callable[[], bool] | None = None) -> int:
        """Write a consistent copy of the file while it is in use; return the highest seq in it.

        Raises StoreGone, StorageError, and DeadlineExceeded once `is_late`.
        """
        with self._file.used(), translated_errors(self._path):
            self._file.check_in_place()
            return copy_into(self._path, copy, is_late=is_late)

    def compact(self, *, is_late: Callable[[], bool] | None = None) -> None:
        """Rewrite the file: afterwards nothing that was deleted is in it or in its log.

        Commits wait meanwhile. Raises StorageError, and DeadlineExceeded once `is_late`.
        """
        while self.bring_words_forward():
            pass
        if self._words is not None:
            with self._transaction() as writer, watched(writer, is_late):
                self._words.erase_removed(writer)
        with self._file.turn() as writer, watched(writer, is_late):
            rewrite(writer, self._path)

    def check(self, *, is_late: Callable[[], bool] | None = None) -> FileCheck:
        """Check every record and what was made of them, while the file is in use.

        Raises StorageError, and DeadlineExceeded once `is_late`.
        """
        with self._file.used(), translated_errors(self._path):
            return check_file(
                self._path,
                dim=self._dim,
                fields=self._fields,
                declared=self._declared,
                words=self._words,
                is_late=is_late,
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._file.transaction(after=self._refresh_words) as writer:
            yield writer

    def _refresh_words(self, writer: sqlite3.Connection) -> None:
        if self._words is not None and self._words.is_unfinished:
            self._words.refresh(writer)

    def _written(self, planned: Plan, vectors: NDArray[np.float16]) -> Committed:
        """Keep the totals in line with a transaction that is durable now."""
        self._count += len(planned.added) - len(planned.removed)
        self._last_seq = planned.last_seq
        return Committed(
            seqs=planned.seqs,
            added_seqs=np.fromiter(planned.added, np.int64, len(planned.added)),
            added_vectors=vectors,
            removed_seqs=np.array(planned.removed, np.int64),
        )

    def _write(self, writer: sqlite3.Connection, planned: Plan) -> NDArray[np.float16]:
        vectors = vectors_to_store(list(planned.added.values()), self._dim)
        remove_rows(
            writer, planned.removed, dim=self._dim, declared=self._declared, words=self._words
        )
        writer.executemany(
            f"INSERT INTO rows ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                write_record(seq, row, vector.tobytes(), self._model_digest)
                for (seq, row), vector in zip(planned.added.items(), vectors, strict=True)
            ),
        )
        if self._words is not None:
            self._words.add(writer, planned.added)
        insert_sources(
            writer,
            ((seq, row.source) for seq, row in planned.added.items() if row.source is not None),
        )
        # A seq is spent also when a later operation of the same batch undid its row.
        writer.execute(
            "UPDATE sqlite_sequence SET seq = ? WHERE name = 'rows'", (planned.last_seq,)
        )
        return vectors

    def _select(
        self, column: str, keys: Sequence[str | int], with_vectors: bool, source_bytes: int
    ) -> list[Row]:
        found: list[Any] = []
        with self._file.snapshot() as connection:
            for some, marks in in_slices(keys):
                statement = f"SELECT {COLUMNS} FROM rows WHERE {column} IN ({marks})"  # noqa: S608
                found += connection.execute(statement, some).fetchall()
            seqs = [columns[0] for columns in found] if source_bytes else ()
            sources, has_all = read_sources_of(connection, seqs, limit_bytes=source_bytes)
        if not has_all:
            raise InvalidArgument(
                "with_text",
                f"the texts take more than {source_bytes} bytes; ask for fewer rows or no texts",
            )
        return [self._row(columns, with_vectors, sources.get(columns[0])) for columns in found]

    def _row(self, columns: Sequence[Any], with_vector: bool, source: Source | None = None) -> Row:
        return read_record(
            self._path, columns, dim=self._dim, with_vector=with_vector, source=source
        )

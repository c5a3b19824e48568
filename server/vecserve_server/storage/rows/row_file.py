"""The SQLite file of a collection: one connection that writes, some that read.

Owns when they are open: from the first use until others need the descriptors more; and that
nothing is written once the file is not where it was opened. Must not know tables.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vecserve_server.errors import StorageError, StoreGone
from vecserve_server.storage.files.open_stores import OpenStores
from vecserve_server.storage.files.presence import Stamp, check_closed, check_open, stamp
from vecserve_server.storage.files.sqlite_file import (
    ReadConnections,
    open_read_only,
    open_writable,
    translated_errors,
    write_transaction,
)


class RowFile:
    """One file, opened when it is used. Any thread; one transaction at a time."""

    def __init__(self, path: Path, *, readers: int, stores: OpenStores) -> None:
        self.path = path
        self._wal = path.with_name(path.name + "-wal")
        self._stores = stores
        self._readers = ReadConnections(path, limit=readers, open_one=self._open_reader)
        # One thread commits, but others forget removals, erase words and rewrite the file.
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._users = 0
        self._closed = False
        # What lay there when it was opened, or when it was closed for others; not before.
        self._seen: tuple[Stamp, Stamp] | None = None
        self._parked: Stamp | None = None
        self._lost: StoreGone | None = None
        self._saved = False
        self._teach: Callable[[sqlite3.Connection], None] | None = None

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection that writes; only while the file is open."""
        assert self._writer is not None
        return self._writer

    @contextmanager
    def used(self) -> Iterator[sqlite3.Connection]:
        """Keep the file open; yields the connection that writes, for whoever holds the turn.

        Raises StorageError, StoreGone, CorruptData if acknowledged transactions are gone.
        """
        with self._opening:
            if self._closed:
                raise StorageError(f"{self.path}: is closed")
            if self._writer is None:
                self._open()
            writer = self.writer
            self._users += 1
        self._stores.use(self)
        try:
            yield writer
        finally:
            with self._opening:
                self._users -= 1

    @contextmanager
    def snapshot(
        self, *, is_late: Callable[[], bool] | None = None
    ) -> Iterator[sqlite3.Connection]:
        """Lend a connection inside a read transaction; see `ReadConnections.snapshot`."""
        with self.used(), self._readers.snapshot(is_late=is_late) as connection:
            yield connection

    @contextmanager
    def turn(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection that writes, outside any transaction. Raises StoreGone."""
        with self.used() as writer, self._writing, translated_errors(self.path):
            self._check_before_writing()
            yield writer

    @contextmanager
    def transaction(
        self, *, after: Callable[[sqlite3.Connection], None] | None = None
    ) -> Iterator[sqlite3.Connection]:
        """Commit when the block ends well; durable, and in the file that has the name.

        `after` is called once it is durable, before anybody else may write. Raises StoreGone if
        the file is not in its place, StorageError.
        """
        with self.turn() as writer:
            with write_transaction(writer):
                yield writer
            if after is not None:
                after(writer)
            try:
                self.check_in_place()
            except StoreGone as error:
                # What was written last may be there or not, and nobody has published it.
                self._lost = error
                raise

    def check_in_place(self) -> None:
        """Raise StoreGone unless the files lie where they were opened."""
        if self._lost is not None:
            raise self._lost
        with self._opening:
            seen, parked = self._seen, self._parked
            if parked is not None:
                check_closed(self.path, parked)
        if seen is not None:
            check_open(self.path, seen[0])
            check_open(self._wal, seen[1])

    def look(self) -> None:
        """Check as `check_in_place` does; what a lost log holds is brought into the file."""
        try:
            self.check_in_place()
        except StoreGone:
            with suppress(StorageError), self.used() as writer, self._writing:
                self._save(writer)
            raise

    def park(self) -> bool:
        """Close the connections unless one is in use or the file is gone; see `OpenStores`."""
        if not self._opening.acquire(blocking=False):
            return False
        try:
            if self._writer is None or self._users or self._lost is not None:
                return False
            if self._seen is None or not self._is_in_place(self._seen):
                return False
            self._let_go(self._writer)
            self._stores.forget(self)
            return True
        finally:
            self._opening.release()

    def close(self) -> None:
        """Close the file for good. No commit may be in progress."""
        self._readers.close()
        with self._writing, self._opening:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._stores.forget(self)

    def taught_by(self, teach: Callable[[sqlite3.Connection], None]) -> None:
        """Have every connection that writes, opened from now on, taught what statements need."""
        self._teach = teach

    def remember(self) -> None:
        """Note which files are open, once they are as they should be. Raises StoreGone."""
        self._seen = (stamp(self.path), stamp(self._wal))

    def _open(self) -> None:
        self._stores.make_room(self)
        try:
            if self._parked is not None:
                check_closed(self.path, self._parked)
            with translated_errors(self.path):
                self._writer = open_writable(self.path)
                if self._teach is not None:
                    self._teach(self._writer)
                if self._parked is not None:
                    # The log is made by whoever reads first.
                    self._writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                    self.remember()
                    self._parked = None
        except BaseException:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._stores.forget(self)
            raise

    def _open_reader(self) -> sqlite3.Connection:
        connection = open_read_only(self.path)
        try:
            if self._seen is not None:
                check_open(self.path, self._seen[0])
        except BaseException:
            connection.close()
            raise
        return connection

    def _let_go(self, writer: sqlite3.Connection) -> None:
        self._readers.let_go()
        writer.close()
        self._writer, self._seen = None, None
        # Nothing changes it from now on.
        with suppress(StoreGone):
            self._parked = stamp(self.path)

    def _is_in_place(self, seen: tuple[Stamp, Stamp]) -> bool:
        try:
            check_open(self.path, seen[0])
            check_open(self._wal, seen[1])
        except StoreGone:
            return False
        return True

    def _check_before_writing(self) -> None:
        try:
            self.check_in_place()
        except StoreGone:
            self._save(self.writer)
            raise

    def _save(self, writer: sqlite3.Connection) -> None:
        """Where only the log is gone, let the file have what is acknowledged; once."""
        if self._saved or self._seen is None:
            return
        self._saved = True
        with suppress(StoreGone, sqlite3.Error):
            check_open(self.path, self._seen[0])
            writer.execute("PRAGMA wal_checkpoint(FULL)")

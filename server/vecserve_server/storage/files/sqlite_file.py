"""SQLite files the way vecserve uses them: WAL, fsync at every commit, many readers.

Owns connections, schema versions, transactions and the translation of SQLite's errors. Must not
know tables.
"""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TypeVar

from vecserve_server.atomic_files import descriptors_used_up
from vecserve_server.errors import (
    ConfigError,
    CorruptData,
    DeadlineExceeded,
    InvalidArgument,
    Overloaded,
    StorageError,
    VecserveError,
)
from vecserve_server.storage.files.read_limit import ReadLimit
from vecserve_server.storage.files.write_ahead_log import check_log

_BUSY_TIMEOUT_S = 1.0
_LEASE_TIMEOUT_S = 5.0
_WAL_KEPT_BYTES = 64 << 20
# A millisecond or so between two looks at the clock.
_STEPS_BETWEEN_LOOKS = 10_000
_VARIABLES = 500
_TOO_LATE = "the rows could not be read in the time that was left"
_Item = TypeVar("_Item")


class ReadConnections:
    """A bounded set of read-only connections to one file, opened when first needed.

    Safe to call from several threads. Readers see the last commit and never wait for the writer.
    """

    def __init__(
        self, path: Path, *, limit: int, open_one: Callable[[], sqlite3.Connection]
    ) -> None:
        self._path = path
        self._limit = limit
        self._open_one = open_one
        self._closed = False
        # Last in, first out: a quiet server keeps using one warm connection.
        self._free: queue.LifoQueue[sqlite3.Connection | None] = queue.LifoQueue()
        for _ in range(limit):
            self._free.put(None)

    @contextmanager
    def snapshot(
        self, *, is_late: Callable[[], bool] | None = None
    ) -> Iterator[sqlite3.Connection]:
        """Lend a connection inside a read transaction: all its answers come from one moment.

        A statement that runs when `is_late` turns true is stopped. Raises DeadlineExceeded then,
        Overloaded when all connections stay busy, StorageError or CorruptData on failure.
        """
        if is_late is not None and is_late():
            raise DeadlineExceeded(_TOO_LATE)
        connection = self._take()
        try:
            with translated_errors(self._path):
                connection = connection or self._open_one()
                with _transaction(connection, "BEGIN"), watched(connection, is_late):
                    yield connection
        finally:
            self._free.put(connection)

    def let_go(self) -> None:
        """Close every connection until one is needed again; none may be in use."""
        for _ in range(self._limit):
            connection = self._free.get_nowait()
            if connection is not None:
                connection.close()
        for _ in range(self._limit):
            self._free.put(None)

    def close(self) -> None:
        """Close every connection, waiting a few seconds at most for those in use."""
        self._closed = True
        for _ in range(self._limit):
            try:
                connection = self._free.get(timeout=_LEASE_TIMEOUT_S)
            except queue.Empty:
                return
            if connection is not None:
                connection.close()

    def _take(self) -> sqlite3.Connection | None:
        if self._closed:
            raise StorageError(f"{self._path}: is closed")
        try:
            return self._free.get(timeout=_LEASE_TIMEOUT_S)
        except queue.Empty:
            raise Overloaded(
                f"all {self._limit} read connections are busy", retry_after_ms=1000
            ) from None


def open_writable(path: Path) -> sqlite3.Connection:
    """Open or create the file for its one writer, who must be the first to open it.

    Raises sqlite3.Error, StorageError, CorruptData if acknowledged transactions are gone.
    """
    check_log(path)
    connection = _connect(path.absolute().as_uri())
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != b"wal":
            raise StorageError(f"{path}: the file system does not support SQLite's WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open the file for reading. Raises sqlite3.Error."""
    return _connect(path.absolute().as_uri() + "?mode=ro")


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[Sequence[str]]
) -> None:
    """Bring the schema to version `len(migrations)`, one transaction per version.

    Raises ConfigError if the file is newer than that, sqlite3.Error.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ConfigError(
            f"{path}: has schema version {version}, this vecserve knows up to {len(migrations)}"
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        with write_transaction(connection):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit when the block ends well, otherwise roll back; the connection stays usable."""
    with _transaction(connection, "BEGIN IMMEDIATE"):
        yield


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn sqlite3.Error into StorageError, CorruptData or InvalidArgument that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    except UnicodeDecodeError as error:
        raise CorruptData(f"{path}: is damaged: holds a text that is not UTF-8") from error


def in_slices(keys: Sequence[_Item]) -> Iterator[tuple[list[_Item], str]]:
    """Cut `keys` into lists that fit one statement, each with its question marks."""
    remaining = iter(keys)
    while some := list(islice(remaining, _VARIABLES)):
        yield some, ", ".join("?" * len(some))


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself rolls back after some failures.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def watched(connection: sqlite3.Connection, is_late: Callable[[], bool] | None) -> Iterator[None]:
    """Stop a statement on the connection once `is_late` says so, at once where it is given up."""
    connection.set_progress_handler(is_late, _STEPS_BETWEEN_LOOKS)
    interruptible = is_late.reading(connection) if isinstance(is_late, ReadLimit) else nullcontext()
    try:
        with interruptible:
            yield
    finally:
        connection.set_progress_handler(None, 0)


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    # Text comes back as bytes, so that a damaged row can still be read and named.
    connection.text_factory = bytes
    return connection


def _translate(path: Path, error: sqlite3.Error) -> VecserveError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_TOOBIG":
        return InvalidArgument("payload", "is longer than SQLite allows")
    if name.startswith("SQLITE_INTERRUPT"):
        return DeadlineExceeded(_TOO_LATE)
    # Payloads were valid JSON when they were written.
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed JSON" in str(error):
        return CorruptData(f"{path}: is damaged: {error}")
    if name == "SQLITE_CANTOPEN" and (used_up := descriptors_used_up()):
        return used_up
    return StorageError(f"{path}: {_words_of(name, error)}")


def _words_of(name: str, error: sqlite3.Error) -> str:
    if name == "SQLITE_FULL":
        return "the disk is full"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "is locked by another process"
    return str(error)

"""Looking after a file of rows as a whole: copy it, rewrite it.

Owns the statements. Must not know who else uses the file meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from vecserve_server.errors import StorageError
from vecserve_server.storage.files.sqlite_file import open_read_only, watched

_CHECKPOINT_TRIES = 10


def copy_into(path: Path, copy: Path, *, is_late: Callable[[], bool] | None = None) -> int:
    """Write a consistent copy of the file without its free pages, while others use it.

    Returns the highest seq given out in the copy. Raises sqlite3.Error; once `is_late`, too.
    """
    connection = open_read_only(path)
    try:
        with watched(connection, is_late):
            connection.execute("VACUUM INTO ?", (str(copy),))
    finally:
        connection.close()
    copied = open_read_only(copy)
    try:
        statement = "SELECT seq FROM sqlite_sequence WHERE name = 'rows'"
        (last_seq,) = copied.execute(statement).fetchone()
        return int(last_seq)
    finally:
        copied.close()


def rewrite(connection: sqlite3.Connection, path: Path) -> None:
    """Rewrite the file without what was deleted, and empty its write-ahead log.

    Raises StorageError if readers keep the log from being emptied, sqlite3.Error.
    """
    connection.execute("VACUUM")
    for _ in range(_CHECKPOINT_TRIES):  # each waits for readers, a second at most
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
    raise StorageError(f"{path}: its write-ahead log is in use and cannot be emptied")

"""Looking after a file of rows as a whole: copy it, rewrite it, check every record.

Owns the statements. Must not know who else uses the file meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from vecserve_server.errors import StorageError
from vecserve_server.storage.row_records import COLUMNS, problem_of
from vecserve_server.storage.sources import intact
from vecserve_server.storage.sqlite_file import open_read_only, watched

MAX_PROBLEMS = 1000
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


def problems(connection: sqlite3.Connection, *, dim: int) -> Iterator[str]:
    """Check the file's structure and every record, inside a read transaction.

    Raises sqlite3.Error where not even that is possible.
    """
    for (finding,) in connection.execute("PRAGMA quick_check"):
        if finding != b"ok":
            yield f"file: {finding.decode(errors='replace')}"
    for columns in connection.execute(f"SELECT {COLUMNS} FROM rows ORDER BY seq"):  # noqa: S608
        if problem := problem_of(columns, dim=dim):
            yield problem
    statement = "SELECT sources.seq, content, sources.checksum, rows.seq FROM sources LEFT JOIN "
    for seq, content, checksum, of_row in connection.execute(
        statement + "rows ON rows.seq = sources.seq"
    ):
        if not intact(seq, content, checksum):
            yield f"row seq {seq}: the checksum of its text is wrong"
        elif of_row is None:
            yield f"row seq {seq}: its text is there, the row is not"

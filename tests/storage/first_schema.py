"""A file of rows as the first schema had it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from vecserve_server.domain.rows import NewRow
from vecserve_server.storage.files.sqlite_file import migrate, open_writable
from vecserve_server.storage.rows.row_records import COLUMNS, vectors_to_store, write_record
from vecserve_server.storage.rows.row_schema import MIGRATIONS


def write_first_schema(
    path: Path, rows: Mapping[int, NewRow], *, dim: int, model_digest: str
) -> sqlite3.Connection:
    """Write rows under their seqs; while the connection is open they stand in the WAL alone."""
    connection = open_writable(path)
    migrate(connection, path, MIGRATIONS[:1])
    vectors = vectors_to_store(list(rows.values()), dim)
    connection.executemany(
        f"INSERT INTO rows ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        [
            write_record(seq, row, vector.tobytes(), model_digest)
            for (seq, row), vector in zip(rows.items(), vectors, strict=True)
        ],
    )
    return connection

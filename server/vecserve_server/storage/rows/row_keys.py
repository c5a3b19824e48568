"""Ids and seqs: which of them a file of rows knows.

Owns the statements that look them up, many at a time. Must not know what rows hold.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from vecserve_server.storage.files.sqlite_file import in_slices
from vecserve_server.storage.rows.row_records import encoded


def seqs_of(writer: sqlite3.Connection, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield id and seq of those that exist. Raises InvalidArgument for an impossible id."""
    check_ids(ids)
    for some, marks in in_slices(ids):
        statement = f"SELECT id, seq FROM rows WHERE id IN ({marks})"  # noqa: S608
        for row_id, seq in writer.execute(statement, some):
            yield row_id.decode(), seq


def existing_seqs(writer: sqlite3.Connection, seqs: Sequence[int]) -> Iterator[int]:
    """Yield the seqs that rows have."""
    for some, marks in in_slices(seqs):
        statement = f"SELECT seq FROM rows WHERE seq IN ({marks})"  # noqa: S608
        for (seq,) in writer.execute(statement, some):
            yield seq


def check_ids(ids: Sequence[str]) -> None:
    """Raise InvalidArgument if one of them cannot be an id."""
    for id_ in ids:
        encoded("id", id_)

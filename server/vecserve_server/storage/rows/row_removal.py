"""Deleting rows, those included that are not what was written.

Owns the statements. Must not know transactions, nor why rows go.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from vecserve_server.storage.payloads.declared_fields import Declared
from vecserve_server.storage.payloads.word_index import WordIndex
from vecserve_server.storage.rows.row_records import COLUMNS, problem_of


def remove_rows(
    writer: sqlite3.Connection,
    seqs: Sequence[int],
    *,
    dim: int,
    declared: Declared,
    words: WordIndex | None,
) -> None:
    """Delete rows by seq and note that they are gone.

    Where one is damaged, the indexes over all payloads are made anew, which takes a while. Raises
    sqlite3.Error.
    """
    # What the indexes hold of a damaged payload cannot be told from it any more.
    is_damaged = bool(declared.indexed or words) and _are_damaged(writer, seqs, dim)
    if is_damaged:
        writer.execute("REINDEX rows")
    elif words is not None:
        words.remove(writer, seqs)
    writer.executemany("DELETE FROM rows WHERE seq = ?", ((seq,) for seq in seqs))
    writer.executemany("INSERT INTO removed (seq) VALUES (?)", ((seq,) for seq in seqs))
    if is_damaged and words is not None:
        words.rebuild(writer)


def _are_damaged(writer: sqlite3.Connection, seqs: Sequence[int], dim: int) -> bool:
    statement = f"SELECT {COLUMNS} FROM rows WHERE seq IN (SELECT value FROM json_each(?))"  # noqa: S608
    found = writer.execute(statement, (json.dumps(list(seqs)),))
    return any(problem_of(columns, dim=dim) for columns in found)

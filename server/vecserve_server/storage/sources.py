"""What rows were made of: kept beside them, so that another model can embed them anew.

Owns one table of the row log. Must not know what a source means.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from vecserve_server.domain import Source
from vecserve_server.errors import CorruptData, InvalidArgument

MIGRATION = (
    """
    CREATE TABLE sources (
        seq INTEGER PRIMARY KEY,
        content TEXT NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TRIGGER source_of_removed_row AFTER DELETE ON rows
    BEGIN
        DELETE FROM sources WHERE seq = OLD.seq;
    END
    """,
)


def insert_sources(connection: sqlite3.Connection, sources: Iterable[tuple[int, Source]]) -> None:
    """Write the sources of new rows, by seq. Raises InvalidArgument, sqlite3.Error."""
    connection.executemany(
        "INSERT INTO sources (seq, content, checksum) VALUES (?, ?, ?)",
        (_record(seq, source) for seq, source in sources),
    )


def read_sources(
    connection: sqlite3.Connection, *, first_seq: int, last_seq: int
) -> Mapping[int, Source]:
    """Read the sources of the rows in a range of seqs, both ends included.

    Raises CorruptData for a damaged one, sqlite3.Error.
    """
    found = connection.execute(
        "SELECT seq, content, checksum FROM sources WHERE seq BETWEEN ? AND ?",
        (first_seq, last_seq),
    )
    return {seq: _source(seq, content, checksum) for seq, content, checksum in found}


def intact(seq: int, content: Any, checksum: int) -> bool:
    """Tell whether a record is what was written."""
    return isinstance(content, bytes) and _checksum(seq, content) == checksum


def _record(seq: int, source: Source) -> tuple[int, str, int]:
    fields = {
        "text": source.text,
        "prompt_name": source.prompt_name,
        "prompt_text": source.prompt_text,
        "truncate": source.truncate,
    }
    content = json.dumps({key: value for key, value in fields.items() if value}, ensure_ascii=False)
    try:
        encoded = content.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("text", "holds a lone surrogate") from None
    return seq, content, _checksum(seq, encoded)


def _source(seq: int, content: Any, checksum: int) -> Source:
    if not intact(seq, content, checksum):
        raise CorruptData(f"row seq {seq}: the checksum of its text is wrong")
    fields = json.loads(content)
    return Source(**{"text": "", **fields})


def _checksum(seq: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(seq.to_bytes(8, "little")))

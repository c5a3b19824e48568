"""What rows were made of: kept beside them, so that another model can embed them anew.

Owns one table of the row log. Must not know what a source means.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vecserve_server.domain.inputs import Modality, Reference
from vecserve_server.domain.rows import Source
from vecserve_server.errors import CorruptData, InvalidArgument
from vecserve_server.storage.files.sqlite_file import in_slices

REPLY_TEXT_BYTES = 32 * 1024 * 1024
"""Texts of the rows of one reply together, where all of them must be in it."""
PAGE_TEXT_BYTES = 2 * 1024 * 1024
"""Texts with which a page of a scan is full: gRPC's clients take 4 MiB by default."""

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


def read_sources_of(
    connection: sqlite3.Connection, seqs: Sequence[int], *, limit_bytes: int
) -> tuple[Mapping[int, Source], bool]:
    """Read the sources of some rows, ascending by seq, until their texts exceed `limit_bytes`.

    Returns them, the one that went beyond the limit as the last, and whether all were read. Rows
    that keep no text have none. Raises CorruptData for a damaged one, sqlite3.Error.
    """
    sources: dict[int, Source] = {}
    size_bytes = 0
    for some, marks in in_slices(sorted(seqs)):
        statement = (
            "SELECT seq, content, checksum FROM sources "  # noqa: S608
            f"WHERE seq IN ({marks}) ORDER BY seq"
        )
        for seq, content, checksum in connection.execute(statement, some):
            sources[seq] = _source(seq, content, checksum)
            size_bytes += text_bytes(sources[seq])
            if size_bytes > limit_bytes:
                return sources, False
    return sources, True


def text_bytes(source: Source | None) -> int:
    """Measure the text of a source in UTF-8; 0 where there is none."""
    return len(source.text.encode()) if source is not None else 0


def intact(seq: int, content: Any, checksum: int) -> bool:
    """Tell whether a record is what was written."""
    return isinstance(content, bytes) and _checksum(seq, content) == checksum


def _record(seq: int, source: Source) -> tuple[int, str, int]:
    reference = source.reference
    fields: dict[str, object] = {
        "text": source.text,
        "reference": asdict(reference) if reference is not None else None,
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
    reference = fields.pop("reference", None)
    return Source(**fields, reference=_reference(reference) if reference else None)


def _reference(fields: dict[str, str]) -> Reference:
    modality = Modality(fields["modality"])
    return Reference(modality=modality, uri=fields["uri"], sha256=fields["sha256"])


def _checksum(seq: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(seq.to_bytes(8, "little", signed=True)))

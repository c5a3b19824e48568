"""A row as one record of the table, with the checksum that tells whether it is what was written.

Owns the table's columns and their encoding. Must not know connections or transactions.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.errors import CorruptData, InvalidArgument

COLUMNS = "seq, id, vector, payload, model, checksum"
_STORED = np.dtype("<f2")


def vectors_to_store(rows: Sequence[NewRow], dim: int) -> NDArray[np.float16]:
    """Round the rows' vectors to what is stored, float16 [N, D]. Raises InvalidArgument."""
    for row in rows:
        if row.vector.shape != (dim,):
            raise InvalidArgument("vector", f"has shape {row.vector.shape}, not ({dim},)")
    vectors = np.empty((len(rows), dim), _STORED)
    with np.errstate(over="ignore"):
        for stored, row in zip(vectors, rows, strict=True):
            stored[:] = row.vector
    if not np.isfinite(vectors).all():
        raise InvalidArgument("vector", "has a component that is not a finite float16")
    return vectors


def write_record(
    seq: int, row: NewRow, vector: bytes, model_digest: str
) -> tuple[int, str, bytes, str, str, int]:
    """Return the values of COLUMNS. Raises InvalidArgument for text that UTF-8 cannot carry."""
    payload = encoded("payload", row.payload_json)
    checksum = _checksum(seq, row.id.encode(), vector, payload, model_digest.encode())
    return seq, row.id, vector, row.payload_json, model_digest, checksum


def read_record(
    path: Path, columns: Sequence[Any], *, dim: int, with_vector: bool, source: Source | None = None
) -> Row:
    """Make a row of the values of COLUMNS, texts as bytes. Raises CorruptData that names `path`."""
    seq, row_id, vector, payload, *_ = columns
    if problem := problem_of(columns, dim=dim):
        raise CorruptData(f"{path}: {problem}")
    return Row(
        seq=seq,
        id=row_id.decode(),
        vector=np.frombuffer(vector, _STORED) if with_vector else None,
        payload_json=payload.decode(),
        source=source,
    )


def problem_of(columns: Sequence[Any], *, dim: int) -> str:
    """Say what is wrong with the values of COLUMNS; nothing if they are what was written."""
    seq, row_id, *_ = columns
    # A damaged record can come back with other types than the schema's.
    *parts, checksum = columns[1:]
    if not all(isinstance(part, bytes) for part in parts) or _checksum(seq, *parts) != checksum:
        return f"row seq {seq}, id {_readable(row_id)}: the checksum is wrong"
    components = len(parts[1]) // _STORED.itemsize
    if components != dim:
        return f"row seq {seq}: its vector has {components} components, the collection's have {dim}"
    return ""


def encoded(field: str, text: str) -> bytes:
    """Encode as UTF-8. Raises InvalidArgument that names the field."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(field, "holds a lone surrogate, which UTF-8 cannot carry") from None


def _readable(text: Any) -> str:
    return repr(text.decode(errors="replace") if isinstance(text, bytes) else text)


def _checksum(seq: int, *parts: bytes) -> int:
    # A damaged seq can be negative.
    value = zlib.crc32(seq.to_bytes(8, "little", signed=True))
    for part in parts:
        value = zlib.crc32(part, zlib.crc32(len(part).to_bytes(8, "little"), value))
    return value

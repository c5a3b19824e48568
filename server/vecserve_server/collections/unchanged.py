"""Whether rows that come in are stored already, just as they are.

Owns the comparison of a row with its stored version. Blocking: for a search thread. Must not know
models: the rows of one generation are all of one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from vecserve_server.domain.rows import NewRow, Row
from vecserve_server.storage.rows.row_log import RowLog

COMPARED_ROWS = 16
"""Rows whose texts are held together."""
ANY_SIZE = 1 << 62


def unchanged_seqs(log: RowLog, rows: Sequence[NewRow]) -> list[int]:
    """Return for each row the seq under which it is stored as it is, 0 if it is not.

    A row with a source is compared by that, and its vector is not looked at. Raises what reads
    raise.
    """
    seqs: list[int] = []
    for start in range(0, len(rows), COMPARED_ROWS):
        some = rows[start : start + COMPARED_ROWS]
        found = log.get([row.id for row in some], with_vectors=True, source_bytes=ANY_SIZE)
        stored = [found.get(row.id) for row in some]
        seqs += [
            old.seq if old is not None and _is_same(old, new) else 0
            for old, new in zip(stored, some, strict=True)
        ]
    return seqs


def _is_same(stored: Row, row: NewRow) -> bool:
    if stored.source != row.source or not _is_same_json(stored.payload_json, row.payload_json):
        return False
    return row.source is not None or _has_vector_of(stored, row)


def _is_same_json(stored: str, new: str) -> bool:
    """Compare JSON but for the order of keys; 1, 1.0 and true differ."""
    if stored == new:
        return True
    return json.dumps(json.loads(stored), sort_keys=True) == json.dumps(
        json.loads(new), sort_keys=True
    )


def _has_vector_of(stored: Row, row: NewRow) -> bool:
    return stored.vector is not None and np.array_equal(
        stored.vector, row.vector.astype(stored.vector.dtype)
    )

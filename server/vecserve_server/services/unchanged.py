"""Whether rows that come in are stored already, just as they are.

Owns the comparison of a row with its stored version. Blocking: for a search thread. Must not know
models: the rows of one generation are all of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vecserve_server.domain import NewRow, Row
from vecserve_server.storage.row_log import RowLog

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
    if stored.payload_json != row.payload_json or stored.source != row.source:
        return False
    return row.source is not None or _has_vector_of(stored, row)


def _has_vector_of(stored: Row, row: NewRow) -> bool:
    return stored.vector is not None and np.array_equal(
        stored.vector, row.vector.astype(stored.vector.dtype)
    )

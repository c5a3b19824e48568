"""Texts that are read with their rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.errors import InvalidArgument
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.row_log import RowLog

DIM = 4
PLENTY = 1 << 30


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RowLog]:
    """Rows r0 to r9 with texts of 100 bytes, but for r5, which has none."""
    log = RowLog.open(tmp_path / "rows.sqlite", dim=DIM, model_digest="0f")
    log.commit(
        [Upsert(_row(f"r{n}", None if n == 5 else Source(text="ü" * 50))) for n in range(10)]
    )
    yield log
    log.close()


def _row(row_id: str, source: Source | None) -> NewRow:
    vector = np.array([1, 0, 0, 0], np.float32)
    return NewRow(id=row_id, vector=vector, payload_json="{}", source=source)


def test_sources_come_only_where_they_are_asked_for(log: RowLog) -> None:
    source = Source(text="ü" * 50)
    assert log.get(["r1", "r5"])["r1"].source is None
    assert {k: row.source for k, row in log.get(["r1", "r5"], source_bytes=PLENTY).items()} == {
        "r1": source,
        "r5": None,
    }
    assert log.by_seq([2], source_bytes=PLENTY)[2].source == source
    assert [row.source for row in log.scan(after_seq=4, limit=2, source_bytes=PLENTY)] == [
        source,
        None,
    ]
    log.commit([Delete("r1")])
    assert log.by_seq([2], source_bytes=PLENTY) == {}


def test_a_read_by_keys_is_refused_and_a_scan_ends_where_the_texts_are_too_large(
    log: RowLog,
) -> None:
    ids = [f"r{n}" for n in range(10)]
    assert len(log.get(ids, source_bytes=900)) == 10
    with pytest.raises(InvalidArgument, match="with_text: the texts take more than 899 bytes"):
        log.get(ids, source_bytes=899)
    with pytest.raises(InvalidArgument, match="with_text"):
        log.by_seq(range(1, 11), source_bytes=899)
    assert [row.id for row in log.scan(after_seq=0, limit=9, source_bytes=250)] == ids[:3]
    assert [row.id for row in log.scan(after_seq=3, limit=9, source_bytes=250)] == ids[3:7]


def test_a_scan_ends_with_the_row_whose_text_is_alone_too_large(log: RowLog) -> None:
    assert [row.seq for row in log.scan(after_seq=0, limit=9, source_bytes=1)] == [1]

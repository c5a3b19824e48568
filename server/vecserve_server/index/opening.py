"""Opening a collection's index without looking at every row.

Owns the recovery: what is damaged is set aside, and its rows are read from the log instead. Must
not know SQLite.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import Row
from vecserve_server.errors import CorruptData, StorageError
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.freed_memory import return_freed_memory
from vecserve_server.index.live_rows import NO_SEQS, LiveRows
from vecserve_server.index.segmented_index import IndexOptions, Removals, SegmentedIndex
from vecserve_server.index.segments.segment import Segment
from vecserve_server.index.segments.segment_folder import (
    SegmentEntry,
    SegmentFolder,
    SegmentsManifest,
)
from vecserve_server.observability.logging import get_logger, log_event

_PAGE_ROWS = 4096


class RowSource(Removals, Protocol):
    """The rows that an index is of: the truth."""

    def scan(self, *, after_seq: int, limit: int, with_vectors: bool = False) -> Sequence[Row]:
        """Read up to `limit` rows with a seq above `after_seq`, ascending by seq."""
        ...

    def removed(self) -> NDArray[np.int64]:
        """List the seqs of rows that are gone and not forgotten, int64 [N], ascending."""
        ...

    def count(self) -> int:
        """Count the rows."""
        ...


class Indexes:
    """Opens the indexes of a server, which share one thread for their maintenance."""

    def __init__(self, *, maintenance: IndexMaintenance, options: IndexOptions) -> None:
        self._maintenance = maintenance
        self._options = options

    def open(self, path: Path, *, dim: int, rows: RowSource) -> SegmentedIndex:
        """Open the index whose segments are in the folder `path`; see `open_index`."""
        return open_index(
            path, dim=dim, rows=rows, maintenance=self._maintenance, options=self._options
        )


def open_index(
    path: Path,
    *,
    dim: int,
    rows: RowSource,
    maintenance: IndexMaintenance,
    options: IndexOptions,
) -> SegmentedIndex:
    """Open the segments in `path` and read the other rows; ready to search when it returns.

    Raises CorruptData that names a row whose checksum is wrong, ConfigError if a newer vecserve
    wrote the segments, StorageError.
    """
    folder = SegmentFolder(path)
    manifest, lost = _manifest(folder)
    live, lost_segments = _open(folder, manifest, dim=dim, rows=rows, options=options)
    if len(live) != rows.count():
        # Rows and segments are not of one history, as after rows were restored from a backup.
        _report(folder.path, f"hold {len(live)} rows, the log has {rows.count()}")
        folder.set_all_aside()
        live, _ = _open(folder, SegmentsManifest(), dim=dim, rows=rows, options=options)
        lost_segments = True
    index = SegmentedIndex(
        live=live,
        folder=folder,
        removals=rows,
        maintenance=maintenance,
        options=replace(options, job=replace(options.job, dim=dim)),
        lost=(lost or lost_segments) and len(live) > 0,
    )
    index.wake_if_due()
    return_freed_memory()
    return index


def _manifest(folder: SegmentFolder) -> tuple[SegmentsManifest, bool]:
    try:
        manifest = folder.read()
    except CorruptData as error:
        _report(folder.path, str(error))
        folder.set_all_aside()
        return SegmentsManifest(), True
    folder.sweep(manifest)
    return manifest, False


def _open(
    folder: SegmentFolder,
    manifest: SegmentsManifest,
    *,
    dim: int,
    rows: RowSource,
    options: IndexOptions,
) -> tuple[LiveRows, bool]:
    live = LiveRows(dim=dim, exact_rows=options.exact_rows, sealed_seq=manifest.sealed_seq)
    segments, lost = _open_segments(folder, manifest, dim=dim, handles=options.handles)
    live.add_segments(segments, rows.removed())
    if lost:
        start = min(entry.first_seq for entry in lost) - 1
        _read(live, rows, after_seq=start, up_to=manifest.sealed_seq, segments=segments)
    _read(live, rows, after_seq=manifest.sealed_seq, up_to=None, segments=())
    return live, bool(lost)


def _open_segments(
    folder: SegmentFolder, manifest: SegmentsManifest, *, dim: int, handles: int
) -> tuple[list[Segment], list[SegmentEntry]]:
    segments, lost = [], []
    for entry in manifest.segments:
        path = folder.folder_of(entry.name)
        try:
            segment = Segment.open(path, handles=handles)
            if segment.record.dim != dim:
                raise CorruptData(f"{path}: has {segment.record.dim} dimensions, not {dim}")
            segments.append(segment)
        except StorageError as error:
            _report(path, str(error))
            lost.append(entry)
            if isinstance(error, CorruptData):
                folder.set_aside(entry.name)
    return segments, lost


def _read(
    live: LiveRows,
    rows: RowSource,
    *,
    after_seq: int,
    up_to: int | None,
    segments: Sequence[Segment],
) -> None:
    """Put rows of the log into the delta, but for those that a segment holds."""
    while page := rows.scan(after_seq=after_seq, limit=_PAGE_ROWS, with_vectors=True):
        after_seq = page[-1].seq
        seqs = np.array([row.seq for row in page], np.int64)
        wanted = np.ones(len(page), np.bool_) if up_to is None else seqs <= up_to
        for segment in segments:
            wanted &= ~np.isin(seqs, segment.seqs[segment.find(seqs)])
        vectors = [row.vector for row, keep in zip(page, wanted, strict=True) if keep]
        if vectors:
            live.apply(
                added_seqs=seqs[wanted],
                added_vectors=np.stack([vector for vector in vectors if vector is not None]),
                removed_seqs=NO_SEQS,
            )
        if up_to is not None and after_seq >= up_to:
            return


def _report(path: Path, problem: str) -> None:
    log_event(get_logger("index"), logging.ERROR, "segment_lost", path=path, problem=problem)

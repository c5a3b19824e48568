"""One build from rows in memory to a segment in force.

Owns the order of its steps: job, build, rename, open, manifest, swap, sweep. A crash between any
two of them leaves either the old segments in force or the new one. Must not know when to build.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vecserve_server.errors import StorageError
from vecserve_server.index.building.build_job import JOB, BuildJob, RowFiles, write_job
from vecserve_server.index.building.builder_process import Builder
from vecserve_server.index.live_rows import Frozen, LiveRows
from vecserve_server.index.segments.segment import Segment
from vecserve_server.index.segments.segment_files import SEQS, VECTORS
from vecserve_server.index.segments.segment_folder import (
    SegmentEntry,
    SegmentFolder,
    SegmentsManifest,
)
from vecserve_server.index.segments.segment_search import SegmentView
from vecserve_server.index.vectors.planning import BuildPlan
from vecserve_server.observability.logging import get_logger, log_event

Step = Callable[[str], None]

STEPS = ("job", "built", "named", "opened", "published", "swapped", "swept")
"""Where a test may stop the process: the names that `step` hears, in order."""

_DELTA_SEQS, _DELTA_VECTORS = "delta.i64", "delta.f16"
_TIMEOUT_S, _TIMEOUT_PER_ROW_S = 120.0, 0.02
# Codes, links of about 24 neighbours and upper levels, work space; then NumPy and the sample.
_BUILDER_ROW_BYTES, _BUILDER_BYTES = 300, 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a collection's rows become segments."""

    live: LiveRows
    folder: SegmentFolder
    process: Builder
    template: BuildJob
    handles: int
    memory_bytes: Callable[[], int]
    """How much a build may take now."""
    step: Step
    given_up: Callable[[], bool]
    """Whether nobody wants the result any more."""

    def build(self, plan: BuildPlan) -> Segment | None:
        """Carry the plan out; the rows' new segment, or None if no row is left.

        Raises StorageError or Draining; then everything is as before, only in more deltas.
        """
        frozen = self.live.freeze()
        rewritten = [frozen.snapshot.views[number] for number in plan.segments]
        rows = frozen.snapshot.delta_live + sum(view.live for view in rewritten)
        kept = [view for view in frozen.snapshot.views if view not in rewritten]
        if not rows:
            return self._publish(frozen, rewritten, kept, None)
        allowed_bytes = self._check_memory(rows)
        base = frozen.snapshot.views[plan.extends] if plan.extends is not None else None
        with self.folder.new_segment() as (name, unfinished):
            self._write_job(unfinished, frozen, rewritten, base, allowed_bytes)
            self.step("job")
            timeout_s = _TIMEOUT_S + _TIMEOUT_PER_ROW_S * rows
            self.process.run(unfinished, timeout_s=timeout_s, given_up=self.given_up)
            for path in unfinished.iterdir():
                if path.name.startswith(("delta.", "left-out-")) or path.name == JOB:
                    path.unlink()
            self.step("built")
        self.step("named")
        new = Segment.open(self.folder.folder_of(name), handles=self.handles)
        # A graph that was extended keeps its dead rows.
        if new.rows not in (rows, rows + (base.dead if base else 0)):
            raise StorageError(f"{name}: holds {new.rows} rows, not {rows}")
        self.step("opened")
        return self._publish(frozen, rewritten, kept, new)

    def _publish(
        self,
        frozen: Frozen,
        rewritten: Sequence[SegmentView],
        kept: Sequence[SegmentView],
        new: Segment | None,
    ) -> Segment | None:
        segments = [view.segment for view in kept] + ([new] if new else [])
        manifest = SegmentsManifest(
            sealed_seq=frozen.sealed_seq, segments=tuple(map(entry_of, segments))
        )
        if new is None:
            self.folder.prepare()
        self.folder.write(manifest)
        self.step("published")
        self.live.replace(rewritten, new)
        self.step("swapped")
        try:
            self.folder.sweep(manifest)
        except StorageError as error:
            # The new segment is in force; the next sweep takes what this one left.
            log_event(get_logger("index"), logging.ERROR, "segments_not_swept", error=error)
        self.step("swept")
        return new

    def _check_memory(self, rows: int) -> int:
        wanted = self._builder_bytes(rows)
        allowed = self.memory_bytes()
        if wanted > allowed:
            raise StorageError(
                f"{self.folder.path}: a build of {rows} rows takes about {wanted >> 20} MiB, "
                f"{allowed >> 20} MiB are allowed"
            )
        return allowed

    def _builder_bytes(self, rows: int) -> int:
        return int(1.25 * rows * (self.template.dim + _BUILDER_ROW_BYTES)) + _BUILDER_BYTES

    def _write_job(
        self,
        unfinished: Path,
        frozen: Frozen,
        rewritten: Sequence[SegmentView],
        base: SegmentView | None,
        memory_bytes: int,
    ) -> None:
        sources = [
            self._segment_source(unfinished, number, view)
            for number, view in enumerate(sorted(rewritten, key=lambda view: view is not base))
        ]
        _write_deltas(unfinished, frozen)
        sources.append(
            RowFiles(
                seqs=str(unfinished / _DELTA_SEQS),
                vectors=str(unfinished / _DELTA_VECTORS),
                left_out="",
            )
        )
        job = replace(
            self.template,
            sources=tuple(sources),
            base=str(base.segment.folder) if base else "",
            memory_bytes=memory_bytes,
        )
        write_job(unfinished, job)

    def _segment_source(self, unfinished: Path, number: int, view: SegmentView) -> RowFiles:
        left_out = unfinished / f"left-out-{number}.i64"
        dead = np.flatnonzero(~view.segment.living(view.version))
        left_out.write_bytes(dead.astype("<i8").tobytes())
        folder = view.segment.folder
        return RowFiles(
            seqs=str(folder / SEQS), vectors=str(folder / VECTORS), left_out=str(left_out)
        )


def entry_of(segment: Segment) -> SegmentEntry:
    """Describe a segment for the manifest."""
    record = segment.record
    return SegmentEntry(
        name=segment.folder.name, first_seq=record.first_seq, last_seq=record.last_seq
    )


def _write_deltas(unfinished: Path, frozen: Frozen) -> None:
    with (
        (unfinished / _DELTA_SEQS).open("wb") as seqs,
        (unfinished / _DELTA_VECTORS).open("wb") as vectors,
    ):
        for delta in frozen.snapshot.deltas:
            for some in delta.living():
                seqs.write(some.seqs.astype("<i8").tobytes())
                vectors.write(some.vectors.astype("<f2").tobytes())

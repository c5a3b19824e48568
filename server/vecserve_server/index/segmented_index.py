"""The index of a collection: searches over its rows, and the work that keeps them fast.

Owns when rows are sealed, segments rewritten and removals forgotten. Must not know SQLite.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import Draining
from vecserve_server.index.building.build_job import BuildJob
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.freed_memory import return_freed_memory
from vecserve_server.index.live_rows import LiveRows
from vecserve_server.index.sealing import Sealing, Step
from vecserve_server.index.segments.segment import Segment
from vecserve_server.index.segments.segment_files import FILES, verify_sha256
from vecserve_server.index.segments.segment_folder import SegmentFolder
from vecserve_server.index.segments.segment_search import SegmentView
from vecserve_server.index.vectors.planning import (
    BuildPlan,
    Costs,
    Thresholds,
    measured_thresholds,
    next_build,
)
from vecserve_server.index.vectors.vector_index import (
    GivenUp,
    IndexStats,
    Neighbours,
    SearchPlan,
    State,
    Verified,
    not_given_up,
)
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.memory import available_memory_bytes

_MOST_REMOVED_ROWS = 20_000
_TURN_S = 0.05
# After a failed build; rows are served without it.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 10.0, 600.0


class Removals(Protocol):
    """Where removed seqs are kept until no segment holds their rows."""

    def forget_removed(self, seqs: NDArray[np.int64]) -> None:
        """Keep these seqs no longer. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How indexes of this server work."""

    handles: int = 2
    """Searches of one graph that may run at once."""
    thresholds: Callable[[Costs], Thresholds] = measured_thresholds
    """When to build, given what searching costs here."""
    exact_rows: int = 10_000
    """Up to so many rows that a filter lets through are all looked at."""
    build_memory_bytes: int = 0
    """Memory that the builder may take; 0: half of what is free when it starts."""
    job: BuildJob = BuildJob(dim=0, sources=())  # noqa: RUF009  frozen
    """The builder's settings; dimensions and rows are filled in."""
    step: Step = lambda _: None
    clock_s: Callable[[], float] = time.monotonic


class SegmentedIndex:
    """A `VectorIndex` whose older rows lie in graphs on disk, built in the background."""

    def __init__(
        self,
        *,
        live: LiveRows,
        folder: SegmentFolder,
        removals: Removals,
        maintenance: IndexMaintenance,
        options: IndexOptions,
        lost: bool,
    ) -> None:
        self._live = live
        self._folder = folder
        self._removals = removals
        self._maintenance = maintenance
        self._options = options
        self._sealing = _sealing(live, folder, maintenance, options, lambda: self._closed)
        self._thresholds = options.thresholds(live.costs)
        self._measured = False
        self._lost = lost
        self._log = get_logger("index")
        # One build at a time; held for as long as it takes.
        self._building = threading.Lock()
        self._closed = False
        self._builds, self._failed_builds, self._build_seconds = 0, 0, 0.0
        self._failures_in_a_row = 0
        self._retry_at_s = 0.0

    def apply(
        self,
        *,
        added_seqs: NDArray[np.int64],
        added_vectors: NDArray[np.float16],
        removed_seqs: NDArray[np.int64],
    ) -> None:
        """Make one transaction visible; see `VectorIndex.apply`."""
        self._live.apply(
            added_seqs=added_seqs, added_vectors=added_vectors, removed_seqs=removed_seqs
        )
        self.wake_if_due()

    def wake_if_due(self) -> None:
        """Have the maintenance thread do what is due, if anything is."""
        unmeasured = not self._measured and self._live.snapshot.views
        if unmeasured or self._live.removed_rows > _MOST_REMOVED_ROWS or self._next_build():
            self._maintenance.wake(self)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query; see `VectorIndex.search`."""
        return self._live.search(queries, k, allowed=allowed, exact=exact)

    def plan(self, k: int, *, allowed_rows: int | None = None, exact: bool = False) -> SearchPlan:
        """Say how a search would be done now; see `VectorIndex.plan`."""
        return self._live.plan(k, allowed_rows=allowed_rows, exact=exact)

    def maintain(self) -> bool:
        """Build what is due, and forget removals that no segment needs.

        On the maintenance thread. Returns False while a build that failed waits to be tried again.
        Raises VecserveError.
        """
        if self._closed:
            return True
        # Before anybody who closes the index has to wait for it.
        self._measure()
        with self._building:
            while (plan := self._next_build()) and not self._closed:
                self._build(plan)
            if self._live.removed_rows > _MOST_REMOVED_ROWS and not self._closed:
                self._forget()
            return not self._failures_in_a_row or self._closed

    def compact(self, given_up: GivenUp = not_given_up) -> None:
        """Rewrite the segments that have dead rows; see `VectorIndex.compact`."""
        while not self._building.acquire(timeout=_TURN_S):
            self._refuse_if(given_up)
        try:
            self._refuse_if(given_up)
            views = enumerate(self._live.snapshot.views)
            if holders := tuple(number for number, view in views if view.dead):
                plan = BuildPlan(segments=holders, extends=None, reason="asked to compact")
                self._build(plan, given_up)
            self._folder.sweep(self._folder.read(), damaged=True)
            self._forget()
        finally:
            self._building.release()

    def verify(self, given_up: GivenUp = not_given_up) -> Verified:
        """Check every file and search for every row; see `VectorIndex.verify`.

        Builds go on meanwhile: what one replaces is not missed.
        """
        snapshot = self._live.snapshot
        missing: list[int] = []
        damaged: list[str] = []
        for view in snapshot.views:
            for some in _missing(view):
                self._refuse_if(given_up)
                missing += some
            damaged += self._damaged_files(view.segment, given_up)
        return Verified(
            rows=snapshot.sealed_live + snapshot.delta_live,
            missing_seqs=tuple(sorted(missing)),
            damaged_files=tuple(damaged),
        )

    def lost_folders(self) -> list[str]:
        """Name the segments whose files are not on disk any more; see `VectorIndex`."""
        lost = [
            segment.folder.name
            for segment in (view.segment for view in self._live.snapshot.views)
            if not all((segment.folder / name).exists() for name in FILES)
        ]
        return [name for name in lost if name in self._in_force()]

    def close(self) -> None:
        """Give up what is in progress and begin nothing else; see `VectorIndex.close`."""
        self._closed = True
        with self._building:
            pass

    @property
    def state(self) -> State:
        """Tell how far the index has come; see `VectorIndex.state`."""
        return self._live.state

    @property
    def stats(self) -> IndexStats:
        """Tell the state, for gauges."""
        views = self._live.snapshot.views
        return IndexStats(
            sealed_rows=sum(view.segment.rows for view in views),
            delta_rows=self._live.snapshot.delta_live,
            dead_rows=sum(view.dead for view in views),
            segments=len(views),
            builds=self._builds,
            failed_builds=self._failed_builds,
            build_seconds=self._build_seconds,
            clip_rate=max((view.segment.record.clip_rate for view in views), default=0.0),
        )

    def __len__(self) -> int:
        return len(self._live)

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        return self._live.memory_bytes

    def _refuse_if(self, given_up: GivenUp) -> None:
        if self._closed:
            raise Draining("the index is being closed")
        if given_up():
            raise Draining("nobody waits for this any more")

    def _in_force(self) -> set[str]:
        return {view.segment.folder.name for view in self._live.snapshot.views}

    def _damaged_files(self, segment: Segment, given_up: GivenUp) -> list[str]:
        damaged = []
        for name in FILES:
            self._refuse_if(given_up)
            if not verify_sha256(segment.folder / name, segment.record.files[name]):
                damaged.append(f"{segment.folder.name}/{name}")
        # The files of a segment that was replaced meanwhile are swept.
        return damaged if segment.folder.name in self._in_force() else []

    def _measure(self) -> None:
        self._live.costs = self._maintenance.costs.measure(self._live.dim)
        self._thresholds = self._options.thresholds(self._live.costs)
        self._measured = True

    def _next_build(self) -> BuildPlan | None:
        plan = next_build(
            self._live.shapes(),
            delta_rows=self._live.snapshot.delta_live,
            lost=self._lost,
            thresholds=self._thresholds,
        )
        if plan is None or self._options.clock_s() < self._retry_at_s:
            return None
        # Extending a graph is what failed, perhaps.
        return replace(plan, extends=None) if self._failures_in_a_row else plan

    def _build(self, plan: BuildPlan, given_up: GivenUp = not_given_up) -> None:
        clock_s = self._options.clock_s
        began_s = clock_s()
        sealing = replace(self._sealing, given_up=lambda: self._closed or given_up())
        try:
            new = sealing.build(plan)
        except BaseException as error:
            if isinstance(error, Draining) and given_up():
                raise
            self._failed_builds += 1
            wait_s = min(_FIRST_WAIT_S * 2**self._failures_in_a_row, _LONGEST_WAIT_S)
            self._failures_in_a_row += 1
            self._retry_at_s = clock_s() + wait_s
            raise
        took_s = clock_s() - began_s
        self._failures_in_a_row, self._lost = 0, False
        self._builds += 1
        self._build_seconds += took_s
        log_event(
            self._log,
            logging.INFO,
            "segment_published",
            folder=self._folder.path,
            reason=plan.reason,
            rows=new.rows if new else 0,
            extended=plan.extends is not None,
            recall=round(new.record.recall, 4) if new else None,
            expansion=new.record.expansion if new else None,
            strays=new.record.strays if new else 0,
            took_s=round(took_s, 3),
        )
        self._forget()
        return_freed_memory()

    def _forget(self) -> None:
        self._removals.forget_removed(self._live.take_removed())


def _build_memory_bytes(options: IndexOptions) -> int:
    """Tell what a build may take: what is configured, or half of what is free."""
    if options.build_memory_bytes:
        return options.build_memory_bytes
    available = available_memory_bytes()
    return available // 2 if available is not None else sys.maxsize


def _sealing(
    live: LiveRows,
    folder: SegmentFolder,
    maintenance: IndexMaintenance,
    options: IndexOptions,
    given_up: Callable[[], bool],
) -> Sealing:
    return Sealing(
        live=live,
        folder=folder,
        process=maintenance.process,
        template=options.job,
        handles=options.handles,
        memory_bytes=lambda: _build_memory_bytes(options),
        given_up=given_up,
        step=options.step,
    )


def _missing(view: SegmentView) -> Iterator[list[int]]:
    """Yield the seqs that a search for themselves does not lead to, some rows at a time."""
    segment = view.segment
    living = np.flatnonzero(segment.living(view.version))
    for rows, found in segment.self_finders(living, segment.record.expansion):
        yield segment.seqs[rows[~found]].tolist()

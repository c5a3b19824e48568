"""One collection: its rows on disk, its vectors in memory, and how they stay one.

Owns the order of things: rows are committed, then published to the index, then acknowledged.
Must not know protocols or models.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.collections.checking import Checked, check, check_rows
from vecserve_server.collections.hits.retrieval import Asked, Retrieval, Steps
from vecserve_server.collections.jobs import Jobs
from vecserve_server.collections.read_shares import ReadShares
from vecserve_server.collections.removals import Removals
from vecserve_server.collections.standing import ALL_WELL, Standing, down, without_segments
from vecserve_server.collections.unchanged import unchanged_seqs
from vecserve_server.collections.write_gate import WriteGate
from vecserve_server.domain.collections import CollectionSpec, CollectionState
from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.domain.searching import QueryHits, Searched, Wanted
from vecserve_server.domain.snapshots import Snapshot
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import FailedPrecondition, NotFound, StoreGone, Superseded
from vecserve_server.index.vectors.vector_index import IndexStats, VectorIndex
from vecserve_server.storage.files.read_limit import ReadLimit
from vecserve_server.storage.folders.manifest import has_manifest
from vecserve_server.storage.folders.snapshots import write_snapshot
from vecserve_server.storage.rows.operations import Committed, Operation, Outcome
from vecserve_server.storage.rows.row_log import RowLog
from vecserve_server.storage.rows.row_queries import RowKey
from vecserve_server.storage.rows.writer import RowWriter

MAX_READ_S = 10.0
TURN_S = 0.1
"""After that a call with many queries lets others read."""


class Collection:
    """Rows, index and writer of one generation of a collection. Coroutines are loop only."""

    def __init__(
        self,
        *,
        spec: CollectionSpec,
        folder: Path,
        log: RowLog,
        index: VectorIndex,
        writer: RowWriter,
        reads: ReadShares,
        upkeep_pool: Executor,
        clock_ns: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        max_read_s: float = MAX_READ_S,
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._log = log
        self._index = index
        self._writer = writer
        self._clock_ns = clock_ns
        self._jobs = Jobs(
            name=spec.name,
            reads=reads,
            upkeep_pool=upkeep_pool,
            clock_ns=clock_ns,
            loop=loop,
            max_read_s=max_read_s,
            refuse=self._refuse_if_closed,
            gone=self._gone,
        )
        self._retrieval = Retrieval(log=log, index=index, clock_ns=clock_ns)
        self._gate = WriteGate(loop)
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._superseded = False
        self.standing = ALL_WELL
        self.removals = Removals()

    async def write(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Write rows; returns after fsync and publishing, with a seq for each operation.

        A delete of an id that does not exist has None, and what did not meet its expected seq a
        Conflict. Raises Overloaded, Draining, StorageError, FailedPrecondition if the files are
        not where they were opened, and Superseded if another generation serves: then nothing was
        written.
        """
        await self._gate.passed()
        self._refuse_if_closed()
        if self._superseded:
            raise Superseded(f"collection: {self.spec.name!r} was re-indexed meanwhile")
        job = self._writer.submit(self._log, operations, self._publish)
        self._gate.track(job)
        return await self._jobs.ended(job)

    def writers_held(self) -> AbstractAsyncContextManager[None]:
        """Hold the writers back; enters once the writes under way are done."""
        return self._gate.held()

    def slow_writers(self) -> None:
        """Delay each write, by twice as much as before, until `let_writers_run`."""
        self._gate.slow_down()

    def let_writers_run(self) -> None:
        """Delay writes no more."""
        self._gate.delay_no_more()

    async def retrieve(
        self, asked: Sequence[Asked], wanted: Wanted, *, deadline_ns: int | None = None
    ) -> Searched:
        """Answer all queries, dense, lexical or both; see `Retrieval.answer`."""
        limit = self._jobs.limit(deadline_ns)
        steps = self._retrieval.steps(asked, wanted, is_late=limit)
        search_ns = 0
        while True:
            answers, spent_ns = await self._jobs.read(partial(self._turn, steps), limit)
            search_ns += spent_ns
            if answers is not None:
                timings = Timings(search_ns=search_ns)
                return Searched(answers=dict(enumerate(answers)), timings=timings)

    def _turn(self, steps: Steps[list[QueryHits]]) -> tuple[list[QueryHits] | None, int]:
        """Work on a call until others should read; the answers, if that was the last of it."""
        started_ns = self._clock_ns()
        answers: list[QueryHits] | None = None
        try:
            next(steps)
            while self._clock_ns() - started_ns < TURN_S * 1e9:
                next(steps)
        except StopIteration as end:
            answers = end.value
        return answers, self._clock_ns() - started_ns

    async def get(
        self, ids: Sequence[str], *, with_vectors: bool, source_bytes: int = 0
    ) -> Mapping[str, Row]:
        """Read rows by id, with sources of at most `source_bytes`; unknown ids are left out.

        Raises InvalidArgument if the sources take more.
        """
        return await self._jobs.read(
            lambda: self._log.get(ids, with_vectors=with_vectors, source_bytes=source_bytes)
        )

    async def unchanged(self, rows: Sequence[NewRow]) -> Sequence[int]:
        """Compare rows with what is stored; return the seq of each that is stored so, 0 if not.

        One without a source is compared by its vector, one with a source by that.
        """
        return await self._jobs.read(lambda: unchanged_seqs(self._log, rows))

    async def scan(
        self,
        after_seq: int,
        limit: int,
        *,
        with_vectors: bool,
        source_bytes: int = 0,
        condition: Condition | None = None,
        deadline_ns: int | None = None,
    ) -> Sequence[Row]:
        """Read rows that match in the order they were written, beginning after a seq.

        With sources where `source_bytes` is above 0; the row that exceeds it is the last.
        """
        is_late = self._jobs.limit(deadline_ns)
        return await self._jobs.read(
            lambda: self._log.scan(
                after_seq=after_seq,
                limit=limit,
                with_vectors=with_vectors,
                source_bytes=source_bytes,
                condition=condition,
                is_late=is_late,
            ),
            is_late,
        )

    async def count(self, condition: Condition, *, deadline_ns: int | None = None) -> int:
        """Count the rows that match."""
        is_late = self._jobs.limit(deadline_ns)
        return await self._jobs.read(
            lambda: self._log.queries.count(condition, is_late=is_late), is_late
        )

    async def keys(
        self, condition: Condition, *, after_seq: int, limit: int, deadline_ns: int | None = None
    ) -> Sequence[RowKey]:
        """List the keys of rows that match in the order they were written."""
        is_late = self._jobs.limit(deadline_ns)
        return await self._jobs.read(
            lambda: self._log.queries.keys(
                condition, after_seq=after_seq, limit=limit, is_late=is_late
            ),
            is_late,
        )

    async def scan_sources(
        self, after_seq: int, limit: int
    ) -> tuple[Sequence[Row], Mapping[int, Source]]:
        """Read rows with their vectors as `scan` does, and what they were made of where known."""
        return await self._jobs.read(
            lambda: self._log.scan_sources(after_seq=after_seq, limit=limit)
        )

    async def without_source(self) -> list[str]:
        """Return the ids of some rows that do not keep what they were made of."""
        return await self._jobs.read(self._log.without_source)

    async def by_seq(self, seqs: Sequence[int]) -> Mapping[int, Row]:
        """Read rows with their vectors by seq; seqs that do not exist are left out."""
        return await self._jobs.read(lambda: self._log.by_seq(seqs, with_vectors=True))

    async def seqs(self) -> NDArray[np.int64]:
        """Read the seqs of all rows, int64 [N], ascending."""
        return await self._jobs.read(self._log.seqs)

    async def replicate(
        self, rows: Mapping[int, NewRow], removed: Sequence[int], *, last_seq: int
    ) -> None:
        """Write rows under the seqs that they have in another generation, and remove others.

        Only while this generation does not serve, one call at a time. Raises StorageError.
        """

        def work() -> None:
            self._publish(self._log.replicate(rows, removed, last_seq=last_seq))

        await self._jobs.read(work)

    async def snapshot(self, folder: Path, limit: ReadLimit | None = None) -> Snapshot:
        """Write the rows as they are now into a new folder.

        Raises AlreadyExists, FailedPrecondition if the files are gone, StorageError.
        """
        await self.refuse_if_down()
        limit = limit or self._jobs.no_limit()
        return await self._jobs.aside(
            lambda: write_snapshot(
                folder, self.spec, partial(self._log.copy_into, is_late=limit), given_up=limit
            ),
            limit,
        )

    async def compact_index(self, limit: ReadLimit | None = None) -> None:
        """Rewrite the index's files without what was removed; reads and writes go on."""
        limit = limit or self._jobs.no_limit()
        await self._jobs.aside(lambda: self._index.compact(limit), limit)

    async def compact_rows(self, limit: ReadLimit | None = None) -> None:
        """Rewrite the rows' file without what was removed; the writers must be held back."""
        limit = limit or self._jobs.no_limit()
        await self._jobs.aside(lambda: self._log.compact(is_late=limit), limit)

    async def verify(self, limit: ReadLimit | None = None) -> Checked:
        """Check every record and what was made of them, and that the index finds every row."""
        limit = limit or self._jobs.no_limit()
        return await self._jobs.aside(lambda: check(self._log, self._index, given_up=limit), limit)

    def look(self) -> Standing:
        """Look whether the files are where they were opened. Any thread."""
        try:
            self._log.check_in_place()
        except StoreGone as error:
            return down(self.spec.name, error)
        lost = self._index.lost_folders()
        return without_segments(self.spec.name, lost) if lost else ALL_WELL

    def has_manifest(self) -> bool:
        """Look whether the next start would know the collection. Any thread."""
        return has_manifest(self._folder.parent)

    async def refuse_if_down(self, *, only_if_replaced: bool = False) -> None:
        """Look, and raise FailedPrecondition if the files are not where they were opened."""
        self.standing = await asyncio.to_thread(self.look)
        standing = self.standing
        if standing.state is CollectionState.DOWN and (
            standing.was_replaced or not only_if_replaced
        ):
            raise FailedPrecondition(standing.reason, field="collection")

    async def verify_rows(self, limit: ReadLimit | None = None) -> Checked:
        """Check every record and what was made of them in the rows' file."""
        limit = limit or self._jobs.no_limit()
        return await self._jobs.aside(lambda: check_rows(self._log, given_up=limit), limit)

    def supersede(self) -> None:
        """Refuse writes from now on: another generation serves. Reads go on until `close`."""
        self._superseded = True

    @property
    def live_rows(self) -> int:
        """Rows that a search can find now."""
        return len(self._index)

    @property
    def memory_bytes(self) -> int:
        """Memory that the vectors take."""
        return self._index.memory_bytes

    @property
    def index_stats(self) -> IndexStats:
        """The state of the index."""
        return self._index.stats

    def last_seq(self) -> int:
        """Highest seq given out."""
        return self._log.last_seq()

    async def disk_bytes(self) -> int:
        """Add up the collection's files, those of other generations included."""
        return await self._jobs.read(lambda: _folder_bytes(self._folder.parent))

    async def close(self, timeout_s: float) -> bool:
        """Refuse new calls and let the files go once the jobs in flight are done.

        Returns False if that takes longer: a disk may hang. Then they are closed as soon as it is
        possible. A second call waits for the first one's work.
        """
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close-collection")
        done, _ = await asyncio.wait([self._closing], timeout=timeout_s)
        for closing in done:
            closing.result()
        return bool(done)

    async def settled(self) -> None:
        """Wait until no job is in flight, not even one whose caller has left."""
        await self._jobs.idle()

    async def _close(self) -> None:
        # First, since a job in flight may wait for a build, which is given up here.
        await asyncio.to_thread(self._index.close)
        await self._jobs.idle()
        await asyncio.to_thread(self._log.close)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            if self._superseded:
                raise Superseded(f"collection: {self.spec.name!r} was re-indexed meanwhile")
            raise NotFound(f"{self.spec.name!r} does not exist", field="collection")

    def _publish(self, committed: Committed) -> None:  # on the writer thread
        self._index.apply(
            added_seqs=committed.added_seqs,
            added_vectors=committed.added_vectors,
            removed_seqs=committed.removed_seqs,
        )
        self.removals.note(committed.removed_seqs)

    def _gone(self, error: StoreGone) -> FailedPrecondition:
        self.standing = down(self.spec.name, error)
        return FailedPrecondition(self.standing.reason, field="collection")


def _folder_bytes(folder: Path) -> int:
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # SQLite's log and replaced segments come and go
        return 0

"""One collection: its rows on disk, its vectors in memory, and how they stay one.

Owns the order of things: rows are committed, then published to the index, then acknowledged.
Must not know protocols or models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vecserve_server.domain import CollectionSpec, Hit, Row, Vectors
from vecserve_server.errors import NotFound
from vecserve_server.index.vector_index import IndexStats, VectorIndex
from vecserve_server.services.retrieval import Answer, Asked, Retrieval, Wanted
from vecserve_server.storage.conditions import Condition
from vecserve_server.storage.operations import Committed, Conflict, Delete, Operation, Outcome
from vecserve_server.storage.row_log import RowLog
from vecserve_server.storage.row_queries import RowKey
from vecserve_server.storage.writer import RowWriter

MAX_READ_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search over several queries found."""

    hits: Sequence[Sequence[Hit]]
    search_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """The answers to several queries."""

    answers: Sequence[Answer]
    search_us: int


class Collection:
    """Rows, index and writer of one collection. Coroutines are loop only."""

    def __init__(
        self,
        *,
        spec: CollectionSpec,
        folder: Path,
        log: RowLog,
        index: VectorIndex,
        writer: RowWriter,
        search_pool: Executor,
        clock_ns: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        max_read_s: float = MAX_READ_S,
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._log = log
        self._index = index
        self._writer = writer
        self._search_pool = search_pool
        self._clock_ns = clock_ns
        self._loop = loop
        self._max_read_ns = int(max_read_s * 1e9)
        self._retrieval = Retrieval(log=log, index=index, clock_ns=clock_ns)
        self._closed = False
        self._jobs_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def write(self, operations: Sequence[Operation]) -> tuple[int | None, ...]:
        """Write rows; returns after fsync and publishing, with a seq for each operation.

        A delete of an id that does not exist has None, and so has what did not meet its expected
        seq. Raises Overloaded, Draining, StorageError.
        """
        outcomes = await self.write_each(operations)
        return tuple(None if isinstance(outcome, Conflict) else outcome for outcome in outcomes)

    async def write_each(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Write rows as `write` does; what did not meet its expected seq has a Conflict."""
        self._refuse_if_closed()
        return await self._finish(self._writer.submit(self._log, operations, self._publish))

    async def delete(self, ids: Sequence[str]) -> int:
        """Delete rows; return how many of the ids existed."""
        seqs = await self.write([Delete(id=row_id) for row_id in dict.fromkeys(ids)])
        return sum(seq is not None for seq in seqs)

    async def search(
        self,
        queries: Vectors,
        k: int,
        *,
        min_score: float | None,
        with_payload: bool,
        leave_out: Sequence[str | None],
    ) -> Found:
        """Find the k nearest rows of each query, float32 [Q, D] of norm 1.

        `leave_out` names, for each query, the row that must not be among its hits.
        """
        asked = [
            Asked(vector=query, leave_out=frozenset() if row_id is None else frozenset({row_id}))
            for query, row_id in zip(queries, leave_out, strict=True)
        ]
        wanted = Wanted(k=k, min_score=min_score, with_payload=with_payload)
        found = await self.retrieve(asked, wanted)
        return Found(hits=[answer.hits for answer in found.answers], search_us=found.search_us)

    async def retrieve(
        self, asked: Sequence[Asked], wanted: Wanted, *, deadline_ns: int | None = None
    ) -> Retrieved:
        """Answer queries, dense, lexical or both; see `Retrieval.answer`."""
        is_late = self._until(deadline_ns)

        def work() -> Retrieved:
            started_ns = self._clock_ns()
            answers = self._retrieval.answer(asked, wanted, is_late=is_late)
            return Retrieved(answers=answers, search_us=(self._clock_ns() - started_ns) // 1000)

        return await self._read(work)

    async def get(self, ids: Sequence[str], *, with_vectors: bool) -> Mapping[str, Row]:
        """Read rows by id; ids that do not exist are left out."""
        return await self._read(lambda: self._log.get(ids, with_vectors=with_vectors))

    async def scan(
        self,
        after_seq: int,
        limit: int,
        *,
        with_vectors: bool,
        condition: Condition | None = None,
        deadline_ns: int | None = None,
    ) -> Sequence[Row]:
        """Read rows that match in the order they were written, beginning after a seq."""
        is_late = self._until(deadline_ns)
        return await self._read(
            lambda: self._log.scan(
                after_seq=after_seq,
                limit=limit,
                with_vectors=with_vectors,
                condition=condition,
                is_late=is_late,
            )
        )

    async def count(self, condition: Condition, *, deadline_ns: int | None = None) -> int:
        """Count the rows that match."""
        is_late = self._until(deadline_ns)
        return await self._read(lambda: self._log.queries.count(condition, is_late=is_late))

    async def keys(
        self, condition: Condition, *, after_seq: int, limit: int, deadline_ns: int | None = None
    ) -> Sequence[RowKey]:
        """List the keys of rows that match in the order they were written."""
        is_late = self._until(deadline_ns)
        return await self._read(
            lambda: self._log.queries.keys(
                condition, after_seq=after_seq, limit=limit, is_late=is_late
            )
        )

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
        """Add up the collection's files."""
        return await self._read(lambda: sum(_size(path) for path in self._folder.rglob("*")))

    @property
    def is_closed(self) -> bool:
        """True once the collection is being dropped or the server stops."""
        return self._closed

    async def close(self, timeout_s: float) -> bool:
        """Refuse new calls and close the row log once the jobs in flight are done.

        Returns False, with the log left open, if that takes longer: a disk may hang.
        """
        self._closed = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        await asyncio.to_thread(self._close)
        return True

    def _close(self) -> None:
        self._index.close()
        self._log.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise NotFound(f"collection: {self.spec.name!r} does not exist")

    def _publish(self, committed: Committed) -> None:  # on the writer thread
        self._index.apply(
            added_seqs=committed.added_seqs,
            added_vectors=committed.added_vectors,
            removed_seqs=committed.removed_seqs,
        )

    def _until(self, deadline_ns: int | None) -> Callable[[], bool]:
        last_ns = self._clock_ns() + self._max_read_ns
        if deadline_ns is not None:
            last_ns = min(last_ns, deadline_ns)
        return lambda: self._clock_ns() > last_ns

    async def _read(self, work: Callable[[], T]) -> T:
        self._refuse_if_closed()
        return await self._finish(self._search_pool.submit(work))

    async def _finish(self, job: Future[T]) -> T:
        # Counted by the job, not by its caller: a cancelled call leaves a running job behind.
        self._jobs_in_flight += 1
        self._idle.clear()
        job.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._count_down))
        return await asyncio.wrap_future(job)

    def _count_down(self) -> None:
        self._jobs_in_flight -= 1
        if not self._jobs_in_flight:
            self._idle.set()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # SQLite's log and replaced segments come and go
        return 0

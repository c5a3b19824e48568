"""Work on whole collections, a few pieces at a time: who does it, who waits for it, who shares it.

Owns the bound, the turns, and the end of work that nobody waits for any more. Must not know what
the work is. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from vecserve_server.errors import Draining, Overloaded
from vecserve_server.storage.files.read_limit import ReadLimit

T = TypeVar("T")
_Key: TypeAlias = tuple[str, str, str]
RETRY_AFTER_MS = 2000


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    limit: ReadLimit
    callers: int = 0
    has_begun: bool = False
    task: asyncio.Task[Any] = field(init=False)


@dataclass(slots=True, kw_only=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class UpkeepJobs:
    """At most one job of a kind works on a collection, and so many on all of them."""

    def __init__(self, *, threads: int, max_jobs: int, clock_ns: Callable[[], int]) -> None:
        """Let `threads` jobs work at a time; with `max_jobs` under way or waiting, refuse more."""
        self._slots = asyncio.Semaphore(threads)
        self._max_jobs = max_jobs
        self._clock_ns = clock_ns
        self._jobs: set[_Job] = set()
        self._joinable: dict[_Key, _Job] = {}
        self._turns: dict[tuple[str, str], _Turn] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    async def share(
        self,
        kind: str,
        collection: str,
        work: Callable[[ReadLimit], Awaitable[T]],
        *,
        detail: str = "",
        until_begun: bool = False,
        guard: AbstractAsyncContextManager[Any] | None = None,
    ) -> T:
        """Do the work, or wait with others for the same: same kind, collection and `detail`.

        It looks at its limit, which is given up once all have left. With `until_begun` only those
        share it who came before it began. `guard` is held while it works. Raises Overloaded, and
        what the work raises.
        """
        key = (kind, collection, detail)
        job = self._joinable.get(key)
        if job is None:
            job = self._begin(key, work, until_begun, guard or nullcontext())
        job.callers += 1
        try:
            result: T = await asyncio.shield(job.task)
            return result
        except asyncio.CancelledError:
            ours = asyncio.current_task()
            if job.task.cancelled() and ours is not None and not ours.cancelling():
                raise Draining("the server is shutting down") from None
            raise
        finally:
            job.callers -= 1
            if not job.callers and not job.task.done():
                self._leave(key, job)

    async def settled(self) -> None:
        """Wait until no work is under way, and none waits."""
        while self._jobs:
            await asyncio.wait([job.task for job in self._jobs])

    async def close(self) -> None:
        """Give all of it up and wait until it has ended."""
        jobs = list(self._jobs)
        for job in jobs:
            self._end(job)
        await asyncio.gather(*(job.task for job in jobs), return_exceptions=True)

    def _begin(
        self,
        key: _Key,
        work: Callable[[ReadLimit], Awaitable[T]],
        until_begun: bool,
        guard: AbstractAsyncContextManager[Any],
    ) -> _Job:
        if len(self._jobs) >= self._max_jobs:
            raise Overloaded(
                f"{len(self._jobs)} snapshots, restores, checks and compactions are under way or "
                f"wait; limits.max_upkeep_jobs = {self._max_jobs}: try again later, or raise it",
                retry_after_ms=RETRY_AFTER_MS,
            )
        job = _Job(limit=ReadLimit(clock_ns=self._clock_ns))
        run = self._run(key, job, work, until_begun, guard)
        job.task = asyncio.create_task(run, name=f"upkeep-{key[0]}")
        self._jobs.add(job)
        self._joinable[key] = job
        job.task.add_done_callback(lambda _: self._ended(key, job))
        return job

    async def _run(
        self,
        key: _Key,
        job: _Job,
        work: Callable[[ReadLimit], Awaitable[T]],
        until_begun: bool,
        guard: AbstractAsyncContextManager[Any],
    ) -> T:
        kind, collection, _ = key
        async with self._turn(kind, collection), guard, self._slots:
            job.has_begun = True
            if until_begun:
                self._forget(key, job)
            return await work(job.limit)

    @asynccontextmanager
    async def _turn(self, kind: str, collection: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault((kind, collection), _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[(kind, collection)]

    def _leave(self, key: _Key, job: _Job) -> None:
        self._forget(key, job)
        self._end(job)

    def _end(self, job: _Job) -> None:
        job.limit.give_up()
        if not job.has_begun:
            job.task.cancel()

    def _forget(self, key: _Key, job: _Job) -> None:
        if self._joinable.get(key) is job:
            del self._joinable[key]

    def _ended(self, key: _Key, job: _Job) -> None:
        self._forget(key, job)
        self._jobs.discard(job)
        if not job.task.cancelled():
            job.task.exception()  # seen, also where nobody waits any more

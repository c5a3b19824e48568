"""Work on the files of one generation, in the threads that are there for it.

Owns which jobs are in flight, and that a job is given up when its caller goes away. Must not know
what is read or written. Coroutines are loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from vecserve_server.collections.read_shares import ReadShares
from vecserve_server.errors import FailedPrecondition, StoreGone
from vecserve_server.storage.files.read_limit import ReadLimit

T = TypeVar("T")


@dataclass(kw_only=True)
class Jobs:
    """The jobs of one generation."""

    name: str
    """Of the collection."""
    reads: ReadShares
    upkeep_pool: Executor
    clock_ns: Callable[[], int]
    loop: asyncio.AbstractEventLoop
    max_read_s: float
    refuse: Callable[[], None]
    """Raises if nothing may be begun any more."""
    gone: Callable[[StoreGone], FailedPrecondition]
    """Is told that files are gone; returns what the caller is told."""
    _in_flight: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._idle.set()

    def limit(self, deadline_ns: int | None) -> ReadLimit:
        """Let a read take as long as any may, and as its caller waits."""
        return ReadLimit(
            clock_ns=self.clock_ns, max_read_s=self.max_read_s, deadline_ns=deadline_ns
        )

    def no_limit(self) -> ReadLimit:
        """Let work take the time it takes, until it is given up."""
        return ReadLimit(clock_ns=self.clock_ns)

    async def read(self, work: Callable[[], T], limit: ReadLimit | None = None) -> T:
        """Do a read when it is the collection's turn."""
        self.refuse()
        limit = limit or self.no_limit()
        return await self.ended(self.reads.submit(self.name, partial(limit.within, work)), limit)

    async def aside(self, work: Callable[[], T], limit: ReadLimit) -> T:
        """Do in a thread of upkeep what takes so long that searches must not wait for it."""
        self.refuse()
        return await self.ended(self.upkeep_pool.submit(partial(limit.within, work)), limit)

    async def ended(self, job: Future[T], limit: ReadLimit | None = None) -> T:
        """Wait for a job. Raises FailedPrecondition if it meets that the files are gone."""
        # Counted by the job, not by its caller: a cancelled call leaves a running job behind.
        self._in_flight += 1
        self._idle.clear()
        job.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self._count_down))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if limit is not None:
                limit.give_up()
            raise
        except StoreGone as error:
            raise self.gone(error) from error

    async def idle(self) -> None:
        """Wait until no job is in flight."""
        await self._idle.wait()

    def _count_down(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

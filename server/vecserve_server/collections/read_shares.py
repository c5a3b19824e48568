"""Which collection reads next: the threads that read are shared, and none may hold all of them.

Owns the order of reads and each collection's share. Must not know what is read.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
_Work = Callable[[], Any]


class ReadShares:
    """Reads in turns: first come, first served within a collection, one after the other between.

    A collection may use another thread while it uses fewer than its share, and fewer than are
    free: so there is one left for whoever comes next, be there one slow collection or several.
    Any thread.
    """

    def __init__(self, pool: Executor, *, threads: int, share: int) -> None:
        """Keep `threads` reads in the pool at most, `share` of them for one collection."""
        self._pool = pool
        self._share = share
        self._free = threads
        self._changing = threading.Lock()
        self._running: Counter[str] = Counter()
        # The collection that was served longest ago first.
        self._waiting: OrderedDict[str, OrderedDict[Future[Any], _Work]] = OrderedDict()

    def submit(self, collection: str, work: Callable[[], T]) -> Future[T]:
        """Queue a read; cancelling the future withdraws it while it waits."""
        job: Future[T] = Future()
        with self._changing:
            self._waiting.setdefault(collection, OrderedDict())[job] = work
        job.add_done_callback(partial(self._withdraw, collection))
        self._start()
        return job

    @property
    def waiting(self) -> int:
        """Reads that wait for a thread."""
        return sum(len(jobs) for jobs in list(self._waiting.values()))

    def _withdraw(self, collection: str, job: Future[Any]) -> None:
        if job.cancelled():
            with self._changing:
                self._drop(collection, job)

    def _drop(self, collection: str, job: Future[Any]) -> None:
        jobs = self._waiting.get(collection)
        if jobs is not None:
            jobs.pop(job, None)
            if not jobs:
                del self._waiting[collection]

    def _start(self) -> None:
        while (found := self._next()) is not None:
            collection, job, work = found
            try:
                self._pool.submit(self._run, collection, job, work)
            except RuntimeError as error:  # the pool was shut down
                job.set_exception(error)
                self._ended(collection)

    def _next(self) -> tuple[str, Future[Any], _Work] | None:
        with self._changing:
            for collection in list(self._waiting):
                running = self._running[collection]
                while running < min(self._share, self._free) and collection in self._waiting:
                    job, work = next(iter(self._waiting[collection].items()))
                    self._drop(collection, job)
                    if not job.set_running_or_notify_cancel():
                        continue
                    self._running[collection] += 1
                    self._free -= 1
                    if collection in self._waiting:
                        self._waiting.move_to_end(collection)
                    return collection, job, work
        return None

    def _run(self, collection: str, job: Future[Any], work: _Work) -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits hears of it
            self._ended(collection)
            job.set_exception(error)
        else:
            self._ended(collection)
            job.set_result(result)

    def _ended(self, collection: str) -> None:
        with self._changing:
            self._free += 1
            self._running[collection] -= 1
            if not self._running[collection]:
                del self._running[collection]
        self._start()

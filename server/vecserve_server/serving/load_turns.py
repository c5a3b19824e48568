"""One load at a time, and none that keeps the others from theirs for ever.

Owns the thread that loads and the threads of loads that took too long: a thread cannot be ended, so
another takes its place. Must not know what is loaded. Loop only.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from vecserve_server.errors import ModelLimit, Overloaded
from vecserve_server.scheduling.niceness import yield_to_others

T = TypeVar("T")
MAX_STUCK = 2
"""Loads that took too long and have not ended yet, beside the one in progress."""
RETRY_AFTER_MS = 10_000


class LoadPool(Executor):
    """One thread, and another once the work in it is given up."""

    def __init__(self, *, niceness: int = 0) -> None:
        self._niceness = niceness
        self._lock = threading.Lock()
        self._stuck = 0
        self._working: Future[Any] | None = None
        self._thread = self._new_thread()

    @property
    def stuck(self) -> int:
        """Threads with work that was given up and has not ended."""
        return self._stuck

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See `Executor`."""
        future = self._thread.submit(fn, *args, **kwargs)
        self._working = future
        return future

    def give_up(self) -> None:
        """Let what is in progress end when it does, and do what comes next in another thread."""
        working, thread = self._working, self._thread
        if working is None or working.done():
            return
        with self._lock:
            self._stuck += 1
        self._thread = self._new_thread()
        thread.shutdown(wait=False)
        working.add_done_callback(self._ended)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor`; what was given up is not waited for."""
        self._thread.shutdown(wait, cancel_futures=cancel_futures)

    def _ended(self, _: Future[Any]) -> None:
        with self._lock:
            self._stuck -= 1

    def _new_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(
            1,
            thread_name_prefix="load",
            initializer=yield_to_others,
            initargs=(self._niceness,),
        )


class LoadTurns:
    """Whose turn it is to load."""

    def __init__(self, *, pool: LoadPool, max_load_s: float) -> None:
        self._pool = pool
        self._max_load_s = max_load_s
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, what: str) -> AsyncIterator[None]:
        """Wait for the turn; the block may use the pool for `max_load_s`.

        Raises ModelLimit that names `what` when that is over, and Overloaded where too many loads
        that were given up are still running.
        """
        async with self._turn:
            if self._pool.stuck >= MAX_STUCK:
                raise Overloaded(
                    f"{self._pool.stuck} loads that took longer than models.max_load_s have not "
                    "ended yet",
                    retry_after_ms=RETRY_AFTER_MS,
                )
            try:
                async with asyncio.timeout(self._max_load_s):
                    yield
            except TimeoutError:
                self._pool.give_up()
                raise ModelLimit(
                    f"{what}: loading took longer than models.max_load_s = {self._max_load_s:g}",
                    bound="load_time",
                ) from None

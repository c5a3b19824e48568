"""Work of the tokenise threads, in the order in which it is worth doing.

Owns who is next: little work before much, and what is long in a thread of its own, so that it never
stands before what is short. Must not know tokenizers. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from typing import TypeVar

from vecserve_server.errors import DeadlineExceeded

T = TypeVar("T")

ON_LOOP_CHARACTERS = 256
"""So little takes less time than handing it to a thread."""
PIECE_TEXTS = 64
"""Long calls go in pieces, so that the encoder starts while the rest is being tokenised."""
PIECE_CHARACTERS = 32 * 1024
"""Ten to twenty milliseconds of work; a longer text makes a piece of its own."""


def pieces(indices: Sequence[int], sizes: Callable[[int], int]) -> list[list[int]]:
    """Cut the texts of a call into pieces, in order; `sizes` tells the characters of each."""
    cut: list[list[int]] = []
    room = 0
    for index in indices:
        size = sizes(index)
        if not cut or len(cut[-1]) == PIECE_TEXTS or size > room:
            cut.append([])
            room = PIECE_CHARACTERS
        cut[-1].append(index)
        room -= size
    return cut


class Tokenising:
    """The threads and who waits for them."""

    def __init__(
        self, *, pool: Executor, threads: int, long_pool: Executor, clock_ns: Callable[[], int]
    ) -> None:
        """Use `threads` threads of `pool`, and one of `long_pool` for what is long."""
        self._short = _Lane(pool, threads, clock_ns)
        self._long = _Lane(long_pool, 1, clock_ns)

    async def run(
        self, work: Callable[[], T], *, characters: int, deadline_ns: int | None = None
    ) -> T:
        """Do a piece of work when it is its turn; raises DeadlineExceeded where that is too late.

        Whoever is cancelled while it waits has its work never begun.
        """
        if characters <= ON_LOOP_CHARACTERS:
            return work()
        lane = self._short if characters <= PIECE_CHARACTERS else self._long
        return await lane.run(work, characters, deadline_ns)


class _Lane:
    """Some threads, and a queue before them that is ordered by size."""

    def __init__(self, executor: Executor, threads: int, clock_ns: Callable[[], int]) -> None:
        self._executor = executor
        self._free = threads
        self._clock_ns = clock_ns
        self._arrivals = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def run(self, work: Callable[[], T], size: int, deadline_ns: int | None) -> T:
        await self._turn(size)
        if deadline_ns is not None and self._clock_ns() >= deadline_ns:
            self._next()
            raise DeadlineExceeded("the deadline passed before the text was tokenised")
        loop = asyncio.get_running_loop()

        def ended(_: Future[T]) -> None:
            # The loop may be closed: then nobody waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._next)

        # The thread is free when the work has ended, whether or not anybody still waits for it.
        running = self._executor.submit(work)
        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    async def _turn(self, size: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (size, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()
            raise

    def _next(self) -> None:
        while self._waiting:
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

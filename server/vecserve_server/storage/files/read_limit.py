"""When a read must end: nobody waits for it, its caller's deadline passed, or it took too long.

Owns which of these came first, and the interruption of a statement that runs. Must not know what
is read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vecserve_server.errors import DeadlineExceeded

T = TypeVar("T")


class ReadLimit:
    """Tells a read whether to go on; any thread may ask, and any thread may give it up.

    The time that a query may take is its own: it counts from `begin`, not from the call's arrival,
    and anew for each query of a call.
    """

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int],
        max_read_s: float | None = None,
        deadline_ns: int | None = None,
    ) -> None:
        self._clock_ns = clock_ns
        self._max_read_s = max_read_s
        self._deadline_ns = deadline_ns
        self._last_ns: int | None = None
        self._given_up = False
        self._reading: set[sqlite3.Connection] = set()
        self._changing = threading.Lock()

    def __call__(self) -> bool:
        """Tell whether the read must end."""
        if self._given_up:
            return True
        now_ns = self._clock_ns()
        return (self._deadline_ns is not None and now_ns > self._deadline_ns) or (
            self._last_ns is not None and now_ns > self._last_ns
        )

    def begin(self) -> None:
        """Count from now on the time that one query takes."""
        if self._max_read_s is not None:
            self._last_ns = self._clock_ns() + int(self._max_read_s * 1e9)

    def within(self, work: Callable[[], T]) -> T:
        """Do work that looks at this limit; where time runs out, say which."""
        self._last_ns = None  # it has waited for its turn since it read last
        if self():
            raise self.error()
        self.begin()
        try:
            return work()
        except DeadlineExceeded:
            raise self.error() from None

    def give_up(self) -> None:
        """End the read at once: nobody waits for it any more."""
        with self._changing:
            self._given_up = True
            for connection in self._reading:
                connection.interrupt()

    @contextmanager
    def reading(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Let `give_up` interrupt what runs on the connection."""
        with self._changing:
            self._reading.add(connection)
        try:
            yield
        finally:
            with self._changing:
                self._reading.discard(connection)

    def error(self) -> DeadlineExceeded:
        """Say which time ran out."""
        if self._given_up:
            return DeadlineExceeded("nobody waits for the answer any more")
        if self._deadline_ns is not None and self._clock_ns() > self._deadline_ns:
            if self._last_ns is None:
                return DeadlineExceeded(
                    "the call's deadline passed while it waited for a thread that reads rows; "
                    "call again later, or give it more time"
                )
            return DeadlineExceeded(
                "the call's deadline passed while rows were read; give it more time, or declare "
                "the fields that its filter names"
            )
        return DeadlineExceeded(
            f"reading the rows of one query took longer than limits.max_read_s = "
            f"{self._max_read_s:g}; declare the fields that its filter names, or raise the limit"
        )


def begin_query(is_late: Callable[[], bool] | None) -> None:
    """Let the time of one query begin, where it is counted."""
    if isinstance(is_late, ReadLimit):
        is_late.begin()

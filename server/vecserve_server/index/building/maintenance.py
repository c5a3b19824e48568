"""The thread that keeps indexes in shape, one after the other.

Owns the queue of indexes that have something to do. Must not know what they do.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Protocol

from vecserve_server.errors import Draining, VecserveError
from vecserve_server.index.building.builder_process import Builder, BuilderProcess
from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.observability.logging import get_logger, log_event

# How long the thread is idle before it comes back to what failed.
_RETRY_S = 10.0


class Maintained(Protocol):
    """Something that has work to do now and then."""

    def maintain(self) -> bool:
        """Do what is due; False asks to be called again, later. Raises VecserveError."""
        ...


class IndexMaintenance:
    """Work for indexes, in a thread of its own: builds, mostly, one at a time."""

    def __init__(
        self, *, process: Builder | None = None, costs: MeasuredCosts | None = None
    ) -> None:
        self.process = process or BuilderProcess()
        self.costs = costs or MeasuredCosts()
        self._log = get_logger("index")
        # None ends the thread. An index waits at most once, so the queue is bounded by them.
        self._due: queue.SimpleQueue[Maintained | None] = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._works = False
        self._changing = threading.Condition()
        # Only the thread uses it.
        self._failed: set[Maintained] = set()
        self._thread = threading.Thread(target=self._run, name="index-maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread; what was woken before waits."""
        self._thread.start()

    def wake(self, index: Maintained) -> None:
        """Let the index do what is due, soon. Never waits."""
        with self._changing:
            if id(index) in self._waiting:
                return
            self._waiting.add(id(index))
        self._due.put(index)

    def settled(self, timeout_s: float) -> bool:
        """Wait until no index has anything due, not longer than that; return whether that is so.

        One that failed is due again later; it is not waited for.
        """
        with self._changing:
            return self._changing.wait_for(lambda: not (self._waiting or self._works), timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Kill a running build and end the thread; return whether it ended in time."""
        self.process.stop()
        self._due.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # A call for each, so that no variable keeps an index in memory that was dropped.
        while self._serve_next():
            pass

    def _serve_next(self) -> bool:
        try:
            index = self._due.get(timeout=_RETRY_S)
        except queue.Empty:
            for failed in self._failed:
                self.wake(failed)
            return True
        if index is None:
            return False
        with self._changing:
            self._waiting.discard(id(index))
            self._works = True
        if self._is_done(index):
            self._failed.discard(index)
        else:
            self._failed.add(index)
        with self._changing:
            self._works = False
            self._changing.notify_all()
        return True

    def _is_done(self, index: Maintained) -> bool:
        try:
            return index.maintain()
        except Draining as error:
            log_event(self._log, logging.INFO, "index_build_given_up", reason=error)
            return True
        except VecserveError as error:
            log_event(self._log, logging.ERROR, "index_build_failed", error=error)
        except Exception:  # noqa: BLE001  whatever it was, the other indexes need the thread
            # The rows are served from the delta all the same.
            self._log.exception("index_maintenance_failed")
        return False

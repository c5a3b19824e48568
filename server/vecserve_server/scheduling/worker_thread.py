"""One thread that runs what it is handed, one job at a time.

Owns the thread. Must not know queues, policies or what the jobs do.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

from vecserve_server.scheduling.niceness import yield_to_others

Job: TypeAlias = Callable[[], None]


class WorkerThread:
    """A thread that is handed a job only while it is idle."""

    def __init__(
        self, *, name: str, on_death: Callable[[BaseException], None], niceness: int = 0
    ) -> None:
        """Start the thread; `on_death` is called from it where a job raises, and it ends."""
        self._on_death = on_death
        self._niceness = niceness
        # Holds one job at most, as only idle workers get one, and the None that ends the thread.
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def start(self, job: Job) -> None:
        """Run the job on the thread."""
        self._jobs.put(job)

    def close(self, timeout_s: float) -> bool:
        """Stop after the job in progress; return whether the thread has ended in time."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        try:
            yield_to_others(self._niceness)
            while (job := self._jobs.get()) is not None:
                job()
        except BaseException as death:  # noqa: BLE001 - a dead worker must not die silently
            self._on_death(death)

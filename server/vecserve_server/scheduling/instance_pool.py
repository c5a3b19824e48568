"""The instances of one model: threads, each of which runs one batch at a time.

Owns the threads, what each of them is running, and the model's use of the cores. A thread that dies
is replaced; the batch that it was running has failed. Must not know policies, futures or what a
batch is. Loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from vecserve_server.errors import VecserveError
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.scheduling.cores import Cores, CoreUse
from vecserve_server.scheduling.worker_thread import WorkerThread

B = TypeVar("B")
R = TypeVar("R")

RESTART_S = 1.0
"""How long an instance stays out of use where the system gives no thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Generic[R]):
    """How a run went: what it returned, or the exception that it raised."""

    outcome: R | Exception
    started_ns: int
    ended_ns: int


class _Instance(Generic[B, R]):
    """A way to run the model, and the thread that does it."""

    __slots__ = ("run", "started_ns", "worker")

    def __init__(self, run: Callable[[B], R]) -> None:
        self.run = run
        self.worker: WorkerThread | None = None
        self.started_ns = 0


class InstancePool(Generic[B, R]):
    """Runs batches on whichever instance is free."""

    def __init__(
        self,
        *,
        name: str,
        runs: Sequence[Callable[[B], R]],
        on_finish: Callable[[B, Finished[R]], None],
        on_free: Callable[[], None],
        cores: Cores | None,
        clock_ns: Callable[[], int],
    ) -> None:
        """Start a thread for each of `runs`.

        `on_finish` is called when a batch is done and its instance free again, `on_free` when
        there is a core or a thread again after there was none. Without `cores` all instances may
        run at once, whatever else runs.
        """
        self._name = name
        self._on_finish = on_finish
        self._on_free = on_free
        self._clock_ns = clock_ns
        self._log = get_logger("scheduling")
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._cores: CoreUse | None = cores.join(on_free) if cores else None
        self._running: dict[_Instance[B, R], B] = {}
        self._instances: list[_Instance[B, R]] = [_Instance(run) for run in runs]
        self._free: list[_Instance[B, R]] = []
        for instance in self._instances:
            self._employ(instance)

    def __len__(self) -> int:
        """Instances, free or not."""
        return len(self._instances)

    @property
    def unfinished(self) -> list[B]:
        """The batches that are running."""
        return list(self._running.values())

    def available(self) -> int:
        """Return how many runs may start now; after none, `on_free` or `on_finish` comes."""
        free = len(self._free)
        return self._cores.allowance(free) if self._cores and free else free

    def start(self, batch: B) -> None:
        """Run a batch; there must be an instance available."""
        started_ns = self._clock_ns()
        instance = self._free.pop()
        assert instance.worker is not None
        self._running[instance] = batch
        instance.started_ns = started_ns

        def job() -> None:  # on the instance's thread
            finished = self._execute(instance.run, batch)
            self._loop.call_soon_threadsafe(self._finish, instance, finished)

        instance.worker.start(job)
        if self._cores:
            self._cores.started()

    async def close(self, timeout_s: float) -> bool:
        """Stop after the runs in progress; return whether they ended in time."""
        self._closed = True
        workers = [instance.worker for instance in self._instances if instance.worker]
        ends = [asyncio.to_thread(worker.close, timeout_s) for worker in workers]
        ended = all(await asyncio.gather(*ends))
        if self._cores:
            self._cores.leave()
        return ended

    def _execute(self, run: Callable[[B], R], batch: B) -> Finished[R]:
        started_ns = self._clock_ns()
        outcome: R | Exception
        try:
            outcome = run(batch)
        except Exception as error:  # noqa: BLE001 - every caller of the run gets an answer
            outcome = error
        return Finished(outcome=outcome, started_ns=started_ns, ended_ns=self._clock_ns())

    def _finish(self, instance: _Instance[B, R], finished: Finished[R]) -> None:
        batch = self._running.pop(instance)
        if instance.worker is not None:
            self._free.append(instance)
        try:
            if self._cores:
                self._cores.ended(finished.ended_ns - finished.started_ns)
        finally:
            self._on_finish(batch, finished)

    def _employ(self, instance: _Instance[B, R]) -> None:
        """Give the instance a thread, now or later, and let it work."""
        if self._closed:
            return

        def on_death(death: BaseException) -> None:  # on the worker's thread
            self._loop.call_soon_threadsafe(self._replace, instance, death)

        number = self._instances.index(instance)
        try:
            instance.worker = WorkerThread(
                name=f"model-{self._name}-{number}",
                on_death=on_death,
                niceness=self._cores.niceness if self._cores else 0,
            )
        except RuntimeError as error:  # the system's limit of threads
            log_event(
                self._log, logging.ERROR, "instance_not_started", model=self._name, reason=error
            )
            self._loop.call_later(RESTART_S, self._employ_late, instance)
        else:
            self._free.append(instance)

    def _employ_late(self, instance: _Instance[B, R]) -> None:
        self._employ(instance)
        self._on_free()

    def _replace(self, instance: _Instance[B, R], death: BaseException) -> None:
        log_event(self._log, logging.ERROR, "instance_died", model=self._name, reason=repr(death))
        instance.worker = None
        self._employ(instance)
        batch = self._running.pop(instance)
        now_ns = self._clock_ns()
        if self._cores:
            self._cores.ended(now_ns - instance.started_ns)
        error = VecserveError("a model instance has died")
        self._on_finish(
            batch, Finished(outcome=error, started_ns=instance.started_ns, ended_ns=now_ns)
        )

"""The one thread that writes rows.

Owns the bounded queue of writes, group commit, and the order commit, publish, acknowledge. Must
not know SQLite or indexes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from vecserve_server.errors import (
    Draining,
    InvalidArgument,
    Overloaded,
    RequestError,
    StorageError,
    VecserveError,
)
from vecserve_server.storage.rows.operations import Committed, Operation, Outcome

Seqs: TypeAlias = tuple[Outcome, ...]
"""Per operation of one job, as in `Committed.seqs`."""

Publish: TypeAlias = Callable[[Committed], None]


class CommitLog(Protocol):
    """Where a group of operations becomes durable in one step."""

    def commit(self, operations: Sequence[Operation]) -> Committed:
        """Apply all operations in order, or none. Raises VecserveError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterStats:
    """What the writer did since it started, and what waits now."""

    queued_rows: int = 0
    commits: int = 0
    failed_commits: int = 0
    rows: int = 0
    commit_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    log: CommitLog
    operations: Sequence[Operation]
    publish: Publish
    future: Future[Seqs] = field(default_factory=Future)


class RowWriter:
    """Commit jobs in the order of their submission, several in one transaction.

    `queue_rows` bounds what waits, `group_rows` what one group holds (one job may exceed it).
    `on_death` hears, in the writer thread, of an exception that ended the thread.
    """

    def __init__(
        self,
        *,
        queue_rows: int,
        group_rows: int,
        on_death: Callable[[BaseException], None],
        retry_after_ms: int = 20,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._queue_rows = queue_rows
        self._group_rows = group_rows
        self._on_death = on_death
        self._retry_after_ms = retry_after_ms
        self._clock_s = clock_s
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._draining = False
        self._dead = False
        self._stats = WriterStats()
        # A daemon: a disk that hangs must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name="row-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; what was submitted before waits in the queue."""
        self._thread.start()

    def submit(
        self, log: CommitLog, operations: Sequence[Operation], publish: Publish
    ) -> Future[Seqs]:
        """Queue one job, without waiting; the future holds its seqs once it is durable.

        In the writer thread, after the commit and before the acknowledgement, `publish` hears of
        the whole transaction; it is called once per transaction even if several of its jobs gave
        it. Cancelling the future withdraws a job whose commit has not begun. The future raises
        what the commit raised.

        Raises Overloaded when the queue is full, Draining after `drain`, InvalidArgument if the
        job could never fit, StorageError if the thread died.
        """
        job = _Job(log=log, operations=operations, publish=publish)
        if len(operations) > self._queue_rows:
            raise InvalidArgument(
                "operations", f"{len(operations)} at once, the limit is {self._queue_rows}"
            )
        with self._changed:
            self._refuse_unless_fit(len(operations))
            self._waiting.append(job)
            self._count(queued_rows=len(operations))
            self._changed.notify()
        return job.future

    def drain(self, timeout_s: float) -> bool:
        """Take no more jobs and wait until the waiting ones are written.

        Returns False if that took longer than `timeout_s` or the thread died: then the jobs still
        waiting failed with Draining, and a commit may still be in progress.
        """
        with self._changed:
            self._draining = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        abandoned = self._take_all()
        _fail(abandoned, Draining("the server stopped before this write began"))
        return not (abandoned or self._dead or self._thread.is_alive())

    def stats(self) -> WriterStats:
        """Tell what was done so far."""
        return self._stats

    def _refuse_unless_fit(self, rows: int) -> None:
        if self._dead:
            raise StorageError("the store writer has stopped after an internal error")
        if self._draining:
            raise Draining("the server is shutting down and takes no more writes")
        if self._stats.queued_rows + rows > self._queue_rows:
            raise Overloaded(
                f"{self._stats.queued_rows} rows wait to be written, the limit is "
                f"{self._queue_rows}",
                retry_after_ms=self._retry_after_ms,
            )

    def _run(self) -> None:
        group: list[_Job] = []
        try:
            while group := self._next_group():
                self._write(group)
                # What is held here while no work comes keeps a dropped collection in memory.
                group = []
        except BaseException as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            self._die(error, group)

    def _next_group(self) -> list[_Job]:
        """Wait for work; an empty group means that the writer is drained."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._draining)
                if not self._waiting:
                    return []
                if group := self._take_group():
                    return group

    def _take_group(self) -> list[_Job]:
        group: list[_Job] = []
        rows = 0
        while self._waiting and (
            not group or rows + len(self._waiting[0].operations) <= self._group_rows
        ):
            job = self._waiting.popleft()
            self._count(queued_rows=-len(job.operations))
            if job.future.set_running_or_notify_cancel():
                group.append(job)
                rows += len(job.operations)
        return group

    def _write(self, group: list[_Job]) -> None:
        by_log: dict[CommitLog, list[_Job]] = {}
        for job in group:
            by_log.setdefault(job.log, []).append(job)
        for log, jobs in by_log.items():
            self._commit(log, jobs)

    def _commit(self, log: CommitLog, jobs: Sequence[_Job]) -> None:
        operations = [operation for job in jobs for operation in job.operations]
        began_s = self._clock_s()
        try:
            committed = log.commit(operations)
        except VecserveError as error:
            self._count(failed_commits=1)
            self._commit_failed(log, jobs, error)
            return
        self._count(commits=1, rows=len(operations), commit_seconds=self._clock_s() - began_s)
        for publish in dict.fromkeys(job.publish for job in jobs):
            publish(committed)
        _acknowledge(jobs, committed.seqs)

    def _commit_failed(self, log: CommitLog, jobs: Sequence[_Job], error: VecserveError) -> None:
        if len(jobs) > 1 and isinstance(error, RequestError):
            # One job's mistake must not fail its neighbours.
            for job in jobs:
                self._commit(log, [job])
        else:
            _fail(jobs, error)

    def _die(self, error: BaseException, group: Sequence[_Job]) -> None:
        with self._changed:
            self._dead = True
        _fail(group, StorageError("the store writer failed; this write may or may not be durable"))
        _fail(self._take_all(), StorageError("the store writer failed before this write began"))
        self._on_death(error)

    def _take_all(self) -> list[_Job]:
        with self._changed:
            jobs = list(self._waiting)
            self._waiting.clear()
            self._count(queued_rows=-self._stats.queued_rows)
        return [job for job in jobs if job.future.set_running_or_notify_cancel()]

    def _count(self, **more: float) -> None:
        with self._changed:
            now = {name: getattr(self._stats, name) + value for name, value in more.items()}
            self._stats = replace(self._stats, **now)


def _acknowledge(jobs: Sequence[_Job], seqs: Seqs) -> None:
    start = 0
    for job in jobs:
        end = start + len(job.operations)
        if not job.future.done():
            job.future.set_result(seqs[start:end])
        start = end


def _fail(jobs: Sequence[_Job], error: VecserveError) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)

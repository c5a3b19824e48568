"""The batcher for models that take tensors: waiting requests meet free model instances.

Owns the requests to one model and its instances. Everything but the runs happens on the event
loop. The policy bounds the queue and forms the batches, late: when an instance is free. A batch
that fails is run again in halves, so that a bad request fails alone; a worker thread that dies is
replaced. Must not know protocols or what the tensors mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vecserve_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineError,
    QueueTimeout,
    VecserveError,
)
from vecserve_server.observability.logging import get_logger
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.answer_order import Answer, AnswerOrder
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.policies.policy import BatchPolicy, Entry
from vecserve_server.scheduling.tensor_run import (
    Arrays,
    Part,
    RunResult,
    RunStop,
    RunTensors,
    RunTimes,
    run_together,
)

ABANDONED, OVERDUE = "abandoned", "overdue"
"""Why a run was ended early."""
OnRun: TypeAlias = Callable[[int, int, int, int], None]
"""Told of each batch that ran: rows, then input, infer and output times in ns. On the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorAnswer:
    """What a request got; the times are those of its whole batch, but for the queue's."""

    outputs: Arrays
    queue_ns: int
    times: RunTimes


class Waiting:
    """One request, from its arrival to its answer."""

    __slots__ = ("answer", "part", "running")

    def __init__(self, part: Part, answer: Answer[TensorAnswer]) -> None:
        self.part = part
        self.answer = answer
        self.running: RunningBatch | None = None


Request: TypeAlias = Entry[Waiting]


class RunningBatch:
    """Requests that run together, and what ends their run early."""

    __slots__ = ("requests", "stop", "timer")

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.stop = RunStop()
        self.timer: asyncio.TimerHandle | None = None


def abandoned(waiting: Waiting) -> bool:
    """Tell whether nobody waits for this answer any more."""
    return waiting.answer.future.done()


class TensorBatcher:
    """Queue, policy and instances of one model version. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        runs: Sequence[RunTensors],
        policy: BatchPolicy[Waiting],
        preserve_ordering: bool = False,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        on_run: OnRun,
        max_run_s: float = 600.0,
        cores: Cores | None = None,
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `abandoned`.

        A run is ended early when nobody waits for it any more, and after `max_run_s`.
        """
        self._name = name
        self._max_run_s = max_run_s
        self._ended_runs = {
            reason: metrics.models.ended_runs.labels(model=name, reason=reason)
            for reason in (ABANDONED, OVERDUE)
        }
        self._policy = policy
        self._clock_ns = clock_ns
        self._on_run = on_run
        self._order: AnswerOrder[TensorAnswer] = AnswerOrder(preserve=preserve_ordering)
        self._batch_rows = metrics.batch_items.labels(model=name)
        self._closed = False
        self._alarm = Alarm(ring=self._dispatch, clock_ns=clock_ns)
        self._retries: deque[Sequence[Request]] = deque()
        self._requests: dict[Waiting, Request] = {}
        self._log = get_logger("scheduling")
        self._loop = asyncio.get_running_loop()
        self._pool: InstancePool[RunningBatch, RunResult] = InstancePool(
            name=name,
            runs=[partial(self._run, run) for run in runs],
            on_finish=self._finish,
            on_free=self._dispatch,
            cores=cores,
            clock_ns=clock_ns,
        )

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return len(self._pool)

    @property
    def queued(self) -> int:
        """Requests that wait for a run."""
        return len(self._policy) + sum(map(len, self._retries))

    async def submit(
        self,
        part: Part,
        *,
        shape: Hashable = (),
        priority: int = 0,
        timeout_us: int = 0,
        deadline_ns: int | None = None,
    ) -> TensorAnswer:
        """Run the request's part in a batch of parts of the same `shape`.

        A cancelled caller costs nothing more than the run that is in progress. Raises Draining,
        Overloaded, DeadlineExceeded, QueueTimeout, or what the run raised.
        """
        if self._closed:
            raise self._draining()
        now_ns = self._clock_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            raise DeadlineExceeded("the deadline passed before the model was asked")
        answer: Answer[TensorAnswer] = Answer(self._loop.create_future())
        waiting = Waiting(part, answer)
        request: Request = Entry(
            work=waiting,
            rows=part.rows,
            tokens=part.rows,
            enqueued_ns=now_ns,
            deadline_ns=deadline_ns,
            priority=priority,
            timeout_us=timeout_us,
            shape=shape,
        )
        self._policy.add(request)
        self._order.enter(answer)
        self._requests[waiting] = request
        try:
            self._dispatch()
            return await self._awaited(answer.future, deadline_ns)
        finally:
            answer.future.cancel()
            del self._requests[waiting]
            self._order.advance()  # past this one, if it was cancelled
            if waiting.running is not None:
                self._end_if_abandoned(waiting.running)

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits and stop the instances; return whether they ended in time."""
        self._closed = True
        self._alarm.cancel()
        for requests in (self._policy.clear(), *self._retries):
            self._fail(requests, self._draining())
        self._retries.clear()
        for batch in self._pool.unfinished:
            batch.stop.stop()
        ended = await self._pool.close(timeout_s)
        for batch in self._pool.unfinished:
            self._release(batch)
            self._fail(batch.requests, self._draining())
        return ended

    async def _awaited(
        self, future: asyncio.Future[TensorAnswer], deadline_ns: int | None
    ) -> TensorAnswer:
        if deadline_ns is None:
            return await future
        try:
            async with asyncio.timeout((deadline_ns - self._clock_ns()) / 1e9):
                return await future
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the model had answered") from None

    def _dispatch(self, answering: Sequence[Request] = ()) -> None:
        """Start what can be started; where that fails, so do all requests that wait.

        Of those that are `answering`, the results are there.
        """
        try:
            self._form_and_start()
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_formed", extra={"fields": {"model": self._name}})
            self._fail_waiting(EngineError(f"a batch could not be formed: {error!r}"), answering)

    def _fail_waiting(self, error: Exception, answering: Sequence[Request]) -> None:
        """Fail every request that is not running: nobody else may know of it any more."""
        self._policy.clear()
        self._retries.clear()
        running = {each for batch in self._pool.unfinished for each in batch.requests}
        safe = running.union(answering)
        self._fail([each for each in self._requests.values() if each not in safe], error)

    def _form_and_start(self) -> None:
        self._start_retries()
        while len(self._policy):
            now_ns = self._clock_ns()
            batch = self._policy.form(now_ns=now_ns, free_instances=self._pool.available())
            for entry in batch.expired:
                self._order.settle(entry.work.answer, _expiry(entry, now_ns))
            if not batch.entries:
                break
            self._start(batch.entries)
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start_retries(self) -> None:
        while self._retries and self._pool.available():
            wanted = [e for e in self._retries.popleft() if not e.work.answer.is_settled]
            if wanted:
                self._start(wanted)

    def _start(self, requests: Sequence[Request]) -> None:
        batch = RunningBatch(requests)
        self._pool.start(batch)
        batch.timer = self._loop.call_later(self._max_run_s, self._end_overdue, batch)
        for request in requests:
            request.work.running = batch

    def _run(self, run: RunTensors, batch: RunningBatch) -> RunResult:
        # On an instance's thread.
        parts = [request.work.part for request in batch.requests]
        return run_together(parts, run, batch.stop, self._clock_ns)

    def _end_if_abandoned(self, batch: RunningBatch) -> None:
        if not batch.stop.is_set and all(abandoned(each.work) for each in batch.requests):
            batch.stop.stop()
            self._ended_runs[ABANDONED].inc()

    def _end_overdue(self, batch: RunningBatch) -> None:
        batch.stop.stop()
        self._ended_runs[OVERDUE].inc()
        problem = f"the run took longer than models.max_run_s = {self._max_run_s:g}"
        # At once: an engine may take its time to end.
        self._fail(batch.requests, DeadlineExceeded(problem))

    def _release(self, batch: RunningBatch) -> None:
        """Take note that a batch runs no more."""
        if batch.timer is not None:
            batch.timer.cancel()
        for request in batch.requests:
            request.work.running = None

    def _finish(self, batch: RunningBatch, run: Finished[RunResult]) -> None:
        self._release(batch)
        try:
            if isinstance(run.outcome, Exception):
                self._retry_or_fail(batch, run.outcome)
            else:
                self._hand_out(batch.requests, run.outcome)
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_answered", extra={"fields": {"model": self._name}})
            self._fail(batch.requests, EngineError(f"a batch could not be answered: {error!r}"))
        self._dispatch()

    def _hand_out(self, entries: Sequence[Request], result: RunResult) -> None:
        self._dispatch(answering=entries)  # the instance works on while the answers go out
        times = result.times
        self._account(entries, times)
        for entry, outputs in zip(entries, result.outputs, strict=True):
            queue_ns = times.started_ns - entry.enqueued_ns
            answer = TensorAnswer(outputs=outputs, queue_ns=queue_ns, times=times)
            self._order.settle(entry.work.answer, answer)

    def _account(self, entries: Sequence[Request], times: RunTimes) -> None:
        rows = sum(max(1, entry.rows) for entry in entries)
        self._batch_rows.observe(rows)
        self._on_run(rows, times.input_ns, times.infer_ns, times.output_ns)

    def _retry_or_fail(self, batch: RunningBatch, error: Exception) -> None:
        entries = batch.requests
        if self._closed:
            self._fail(entries, self._draining())
            return
        if len(entries) == 1:
            self._fail(entries, error)
            return
        wanted = [entry for entry in entries if not entry.work.answer.is_settled]
        half = len(wanted) // 2
        self._retries += (part for part in (wanted[:half], wanted[half:]) if part)

    def _draining(self) -> Draining:
        return Draining(f"model {self._name} is being unloaded")

    def _fail(self, entries: Sequence[Request], error: Exception) -> None:
        for entry in entries:
            self._order.settle(entry.work.answer, error)


def _expiry(entry: Request, now_ns: int) -> VecserveError:
    if entry.deadline_ns is not None and entry.deadline_ns <= now_ns:
        return DeadlineExceeded("the deadline passed in the queue")
    return QueueTimeout("Request timeout expired")

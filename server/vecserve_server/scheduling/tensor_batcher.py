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

from vecserve_server.errors import DeadlineExceeded, Draining, QueueTimeout, VecserveError
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.answer_order import Answer, AnswerOrder
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.policy import BatchPolicy, Entry
from vecserve_server.scheduling.tensor_run import (
    Arrays,
    Part,
    RunResult,
    RunTensors,
    RunTimes,
    run_together,
)

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

    __slots__ = ("answer", "part")

    def __init__(self, part: Part, answer: Answer[TensorAnswer]) -> None:
        self.part = part
        self.answer = answer


Request: TypeAlias = Entry[Waiting]


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
        cores: Cores | None = None,
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `abandoned`."""
        self._name = name
        self._policy = policy
        self._clock_ns = clock_ns
        self._on_run = on_run
        self._order: AnswerOrder[TensorAnswer] = AnswerOrder(preserve=preserve_ordering)
        self._batch_rows = metrics.batch_items.labels(model=name)
        self._closed = False
        self._alarm = Alarm(ring=self._dispatch, clock_ns=clock_ns)
        self._retries: deque[Sequence[Request]] = deque()
        self._loop = asyncio.get_running_loop()
        self._pool: InstancePool[Sequence[Request], RunResult] = InstancePool(
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
        self._policy.add(
            Entry(
                work=Waiting(part, answer),
                rows=part.rows,
                tokens=part.rows,
                enqueued_ns=now_ns,
                deadline_ns=deadline_ns,
                priority=priority,
                timeout_us=timeout_us,
                shape=shape,
            )
        )
        self._order.enter(answer)
        self._dispatch()
        try:
            return await self._awaited(answer.future, deadline_ns)
        finally:
            self._order.advance()  # past this one, if it was cancelled

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits and stop the instances; return whether they ended in time."""
        self._closed = True
        self._alarm.cancel()
        for entries in (self._policy.clear(), *self._retries):
            self._fail(entries, self._draining())
        self._retries.clear()
        ended = await self._pool.close(timeout_s)
        for entries in self._pool.unfinished:
            self._fail(entries, self._draining())
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

    def _dispatch(self) -> None:
        self._start_retries()
        while len(self._policy):
            now_ns = self._clock_ns()
            batch = self._policy.form(now_ns=now_ns, free_instances=self._pool.available())
            for entry in batch.expired:
                self._order.settle(entry.work.answer, _expiry(entry, now_ns))
            if not batch.entries:
                break
            self._pool.start(batch.entries)
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start_retries(self) -> None:
        while self._retries and self._pool.available():
            wanted = [e for e in self._retries.popleft() if not e.work.answer.is_settled]
            if wanted:
                self._pool.start(wanted)

    def _run(self, run: RunTensors, entries: Sequence[Request]) -> RunResult:
        # On an instance's thread.
        return run_together([entry.work.part for entry in entries], run, self._clock_ns)

    def _finish(self, entries: Sequence[Request], run: Finished[RunResult]) -> None:
        if isinstance(run.outcome, Exception):
            self._retry_or_fail(entries, run.outcome)
            self._dispatch()
            return
        self._dispatch()  # the instance works on while the answers go out
        times = run.outcome.times
        self._account(entries, times)
        for entry, outputs in zip(entries, run.outcome.outputs, strict=True):
            queue_ns = times.started_ns - entry.enqueued_ns
            answer = TensorAnswer(outputs=outputs, queue_ns=queue_ns, times=times)
            self._order.settle(entry.work.answer, answer)

    def _account(self, entries: Sequence[Request], times: RunTimes) -> None:
        rows = sum(max(1, entry.rows) for entry in entries)
        self._batch_rows.observe(rows)
        self._on_run(rows, times.input_ns, times.infer_ns, times.output_ns)

    def _retry_or_fail(self, entries: Sequence[Request], error: Exception) -> None:
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

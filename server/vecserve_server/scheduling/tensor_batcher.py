"""The batcher for models that take tensors: waiting requests meet free model instances.

Owns the requests and the worker threads of one model. Everything but the runs happens on the event
loop. The policy bounds the queue and forms the batches, late: when an instance is free. A batch
that fails is run again request by request, so that a bad request fails alone; a worker thread that
dies is replaced. Must not know protocols or what the tensors mean.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vecserve_server.errors import DeadlineExceeded, Draining, Overloaded, VecserveError
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.answer_order import Answer, AnswerOrder
from vecserve_server.scheduling.policy import RETRY_AFTER_MS, BatchPolicy, Entry
from vecserve_server.scheduling.tensor_run import (
    Arrays,
    Part,
    RunResult,
    RunTensors,
    RunTimes,
    run_together,
)
from vecserve_server.scheduling.worker_thread import WorkerThread

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


class Instance:
    """A way to run the model, and the thread that does it."""

    __slots__ = ("run", "worker")

    def __init__(self, run: RunTensors) -> None:
        self.run = run
        self.worker: WorkerThread


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
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `abandoned`."""
        self._name = name
        self._policy = policy
        self._clock_ns = clock_ns
        self._on_run = on_run
        self._log = get_logger("scheduling")
        self._order: AnswerOrder[TensorAnswer] = AnswerOrder(preserve=preserve_ordering)
        self._batch_rows = metrics.batch_items.labels(model=name)
        self._closed = False
        self._alarm = Alarm(ring=self._dispatch, clock_ns=clock_ns)
        self._retries: deque[Request] = deque()
        self._running: dict[Instance, Sequence[Request]] = {}
        self._loop = asyncio.get_running_loop()
        self._instances = [Instance(run) for run in runs]
        for instance in self._instances:
            self._employ(instance)
        self._free = list(self._instances)

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return len(self._instances)

    @property
    def queued(self) -> int:
        """Requests that wait for a run."""
        return len(self._policy) + len(self._retries)

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
        Overloaded, DeadlineExceeded, or what the run raised.
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
        self._fail([*self._policy.clear(), *self._retries], self._draining())
        self._retries.clear()
        ends = [asyncio.to_thread(each.worker.close, timeout_s) for each in self._instances]
        ended = all(await asyncio.gather(*ends))
        left = [entry for entries in self._running.values() for entry in entries]
        self._fail(left, self._draining())
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
            batch = self._policy.form(now_ns=now_ns, free_instances=len(self._free))
            for entry in batch.expired:
                self._order.settle(entry.work.answer, _expiry(entry, now_ns))
            if not batch.entries:
                break
            self._start(batch.entries)
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start_retries(self) -> None:
        while self._retries and self._free:
            entry = self._retries.popleft()
            if not entry.work.answer.is_settled:
                self._start([entry])

    def _employ(self, instance: Instance) -> None:
        number = self._instances.index(instance)

        def on_death(death: BaseException) -> None:  # on the worker's thread
            self._loop.call_soon_threadsafe(self._replace, instance, death)

        instance.worker = WorkerThread(name=f"model-{self._name}-{number}", on_death=on_death)

    def _start(self, entries: Sequence[Request]) -> None:
        instance = self._free.pop()
        self._running[instance] = entries
        parts = [entry.work.part for entry in entries]

        def job() -> None:  # on the worker's thread
            outcome: RunResult | Exception
            try:
                outcome = run_together(parts, instance.run, self._clock_ns)
            except Exception as error:  # noqa: BLE001 - every caller of the run gets an answer
                outcome = error
            self._loop.call_soon_threadsafe(self._finish, instance, outcome)

        instance.worker.start(job)

    def _finish(self, instance: Instance, outcome: RunResult | Exception) -> None:
        entries = self._release(instance)
        if isinstance(outcome, Exception):
            self._retry_or_fail(entries, outcome)
            self._dispatch()
            return
        self._dispatch()  # the instance works on while the answers go out
        self._account(entries, outcome.times)
        for entry, outputs in zip(entries, outcome.outputs, strict=True):
            queue_ns = outcome.times.started_ns - entry.enqueued_ns
            answer = TensorAnswer(outputs=outputs, queue_ns=queue_ns, times=outcome.times)
            self._order.settle(entry.work.answer, answer)

    def _account(self, entries: Sequence[Request], times: RunTimes) -> None:
        rows = sum(max(1, entry.rows) for entry in entries)
        self._batch_rows.observe(rows)
        self._on_run(rows, times.input_ns, times.infer_ns, times.output_ns)

    def _release(self, instance: Instance) -> Sequence[Request]:
        self._free.append(instance)
        return self._running.pop(instance)

    def _replace(self, instance: Instance, death: BaseException) -> None:
        log_event(self._log, logging.ERROR, "instance_died", model=self._name, reason=repr(death))
        if not self._closed:
            self._employ(instance)
        self._retry_or_fail(self._release(instance), VecserveError("a model instance has died"))
        self._dispatch()

    def _retry_or_fail(self, entries: Sequence[Request], error: Exception) -> None:
        if len(entries) == 1:
            self._fail(entries, error)
        elif self._closed:
            self._fail(entries, self._draining())
        else:
            self._retries.extend(entries)

    def _draining(self) -> Draining:
        return Draining(f"model {self._name} is being unloaded")

    def _fail(self, entries: Sequence[Request], error: Exception) -> None:
        for entry in entries:
            self._order.settle(entry.work.answer, error)


def _expiry(entry: Request, now_ns: int) -> VecserveError:
    if entry.deadline_ns is not None and entry.deadline_ns <= now_ns:
        return DeadlineExceeded("the deadline passed in the queue")
    return Overloaded("Request timeout expired", retry_after_ms=RETRY_AFTER_MS)

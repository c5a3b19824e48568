"""The dynamic batcher of models that take tensors: waiting requests meet free model instances.

Owns the way of a request through the queue of one model. The policy bounds that queue. Must not
know protocols or what the tensors mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import DeadlineExceeded
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.answer_order import Answer
from vecserve_server.scheduling.compute import UNHURRIED, Computed
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.dispatcher import Dispatcher, OnBatch, until
from vecserve_server.scheduling.policies.policy import BatchPolicy, Entry
from vecserve_server.scheduling.run import Run
from vecserve_server.scheduling.tensor_payload import TensorPayload, Waiting
from vecserve_server.scheduling.tensor_run import (
    Arrays,
    Part,
    RunResult,
    RunTensors,
    run_together,
)


class TensorBatcher:
    """The `Compute` of one version of a tensor model. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        runs: Sequence[RunTensors],
        policy: BatchPolicy[Waiting],
        preserve_ordering: bool = False,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        on_run: OnBatch,
        max_run_s: float = 600.0,
        cores: Cores | None = None,
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `tensor_payload.abandoned`.

        A run is ended early when nobody waits for it any more, and after `max_run_s`.
        """
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._payload = TensorPayload(
            name=name,
            preserve_ordering=preserve_ordering,
            max_run_s=max_run_s,
            metrics=metrics,
            on_run=on_run,
        )
        self._dispatcher: Dispatcher[Waiting, RunResult] = Dispatcher(
            name=name,
            runs=[partial(_run, run_tensors, clock_ns) for run_tensors in runs],
            policy=policy,
            payload=self._payload,
            draining=f"model {name} is being unloaded",
            clock_ns=clock_ns,
            cores=cores,
        )

    @property
    def instance_count(self) -> int:
        """See `Compute`."""
        return self._dispatcher.instance_count

    @property
    def queued(self) -> int:
        """See `Compute`: requests."""
        return self._dispatcher.queued

    def admit(self, count: int, *, cost: int, urgency: Urgency = UNHURRIED) -> None:  # noqa: ARG002 - the policy bounds the queue
        """See `Compute`; whether the queue is full shows when the request comes."""
        self._enter(urgency)

    async def submit(
        self,
        work: Part,
        urgency: Urgency = UNHURRIED,
        *,
        admitted: bool = False,  # noqa: ARG002 - the policy bounds the queue
    ) -> Computed[Arrays]:
        """See `Compute`; the times of the run are those of its whole batch.

        `start_by_ns` counts where the policy lets a request say how long it may wait.
        """
        now_ns = self._enter(urgency)
        answer: Answer[Computed[Arrays]] = Answer(self._loop.create_future())
        waiting = Waiting(work, answer, urgency=urgency, enqueued_ns=now_ns)
        self._dispatcher.add(_entry(waiting))
        self._payload.enter(waiting)
        try:
            self._dispatcher.dispatch()
            return await until(
                urgency.deadline_ns,
                answer.future,
                clock_ns=self._clock_ns,
                too_late="the deadline passed before the model had answered",
            )
        finally:
            self._payload.leave(waiting)

    async def close(self, timeout_s: float) -> bool:
        """See `Compute`."""
        return await self._dispatcher.close(timeout_s)

    def _enter(self, urgency: Urgency) -> int:
        """Refuse what cannot be served at all; return the time of arrival."""
        self._dispatcher.check_open()
        now_ns = self._clock_ns()
        if urgency.deadline_ns is not None and urgency.deadline_ns <= now_ns:
            raise DeadlineExceeded("the deadline passed before the model was asked")
        return now_ns


def _run(run_tensors: RunTensors, clock_ns: Callable[[], int], run: Run[Waiting]) -> RunResult:
    return run_together([each.part for each in run.works], run_tensors, run.stop, clock_ns)


def _entry(waiting: Waiting) -> Entry[Waiting]:
    part, urgency = waiting.part, waiting.urgency
    return Entry(
        work=waiting,
        rows=part.rows,
        tokens=part.rows,
        enqueued_ns=waiting.enqueued_ns,
        deadline_ns=urgency.deadline_ns,
        priority=urgency.priority,
        timeout_us=_timeout_us(urgency, waiting.enqueued_ns),
        shape=part.shape,
    )


def _timeout_us(urgency: Urgency, now_ns: int) -> int:
    """Return how long it may wait; 0: as the policy has it."""
    if urgency.start_by_ns is None:
        return 0
    return max(1, -(-(urgency.start_by_ns - now_ns) // 1000))

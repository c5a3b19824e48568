"""What the dispatcher of a tensor model works on: whole requests.

Owns the requests that are open, the order of their answers, and what ends their runs early. Must
not know the queue, the instances or what the tensors mean. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import DeadlineExceeded
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.answer_order import Answer, AnswerOrder
from vecserve_server.scheduling.compute import Computed
from vecserve_server.scheduling.dispatcher import OnBatch, refusal
from vecserve_server.scheduling.policies.policy import Entry
from vecserve_server.scheduling.run import Run
from vecserve_server.scheduling.tensor_run import Arrays, Part, RunResult

ABANDONED, OVERDUE = "abandoned", "overdue"
"""Why a run was ended early."""


class Waiting:
    """One request, from its arrival to its answer."""

    __slots__ = ("answer", "enqueued_ns", "part", "run", "urgency")

    def __init__(
        self,
        part: Part,
        answer: Answer[Computed[Arrays]],
        *,
        urgency: Urgency,
        enqueued_ns: int,
    ) -> None:
        self.part = part
        self.answer = answer
        self.urgency = urgency
        self.enqueued_ns = enqueued_ns
        self.run: Run[Waiting] | None = None
        """The one that it is in now."""


def abandoned(waiting: Waiting) -> bool:
    """Tell whether nobody waits for this answer any more."""
    return waiting.answer.future.done()


class TensorPayload:
    """The `Payload` of requests; each is a call of its own.

    A run is ended early when nobody waits for it any more, and after `max_run_s`.
    """

    def __init__(
        self,
        *,
        name: str,
        preserve_ordering: bool,
        max_run_s: float,
        metrics: Metrics,
        on_run: OnBatch,
    ) -> None:
        self._max_run_s = max_run_s
        self._on_run = on_run
        self._order: AnswerOrder[Computed[Arrays]] = AnswerOrder(preserve=preserve_ordering)
        self._waiting: dict[Waiting, None] = {}
        self._timers: dict[Run[Waiting], asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._batch_rows = metrics.batch_items.labels(model=name)
        self._ended_runs = {
            reason: metrics.models.ended_runs.labels(model=name, reason=reason)
            for reason in (ABANDONED, OVERDUE)
        }

    def enter(self, waiting: Waiting) -> None:
        """Take in a request that has come."""
        self._order.enter(waiting.answer)
        self._waiting[waiting] = None

    def leave(self, waiting: Waiting) -> None:
        """Let a request go, answered or not."""
        waiting.answer.future.cancel()
        del self._waiting[waiting]
        self._order.advance()  # past this one, if it was cancelled
        run = waiting.run
        if run is not None and not run.stop.is_set and all(map(abandoned, run.works)):
            run.stop.stop()
            self._ended_runs[ABANDONED].inc()

    def wanted(self, works: Sequence[Waiting]) -> list[Waiting]:
        """See `Payload`."""
        return [each for each in works if not each.answer.is_settled]

    def cost(self, works: Sequence[Waiting]) -> int:
        """See `Payload`: rows."""
        return sum(max(1, each.part.rows) for each in works)

    def has_one_caller(self, works: Sequence[Waiting]) -> bool:
        """See `Payload`."""
        return len(works) == 1

    def started(self, run: Run[Waiting]) -> None:
        """See `Payload`."""
        self._timers[run] = self._loop.call_later(self._max_run_s, self._end_overdue, run)
        for waiting in run.works:
            waiting.run = run

    def ended(self, run: Run[Waiting]) -> None:
        """See `Payload`."""
        if (timer := self._timers.pop(run, None)) is not None:
            timer.cancel()
        for waiting in run.works:
            waiting.run = None

    def answer(
        self,
        works: Sequence[Waiting],
        result: RunResult,
        *,
        started_ns: int,
        ended_ns: int,  # noqa: ARG002 - the stages are timed one by one
    ) -> None:
        """See `Payload`."""
        times = result.timings
        rows = self.cost(works)
        self._batch_rows.observe(rows)
        self._on_run(rows, times.compute_input_ns, times.compute_infer_ns, times.compute_output_ns)
        for waiting, outputs in zip(works, result.outputs, strict=True):
            timings = Timings(
                queue_ns=started_ns - waiting.enqueued_ns,
                compute_input_ns=times.compute_input_ns,
                compute_infer_ns=times.compute_infer_ns,
                compute_output_ns=times.compute_output_ns,
            )
            self._order.settle(waiting.answer, Computed(result=outputs, timings=timings))

    def expire(self, entry: Entry[Waiting], now_ns: int) -> None:
        """See `Payload`."""
        self.fail([entry.work], refusal(entry.work.urgency, now_ns))

    def fail(self, works: Sequence[Waiting], error: Exception) -> None:
        """See `Payload`."""
        for waiting in works:
            self._order.settle(waiting.answer, error)

    def fail_all_but(self, safe: AbstractSet[Waiting], error: Exception) -> None:
        """See `Payload`."""
        self.fail([each for each in self._waiting if each not in safe], error)

    def _end_overdue(self, run: Run[Waiting]) -> None:
        run.stop.stop()
        self._ended_runs[OVERDUE].inc()
        problem = f"the run took longer than models.max_run_s = {self._max_run_s:g}"
        # At once: an engine may take its time to end.
        self.fail(run.works, DeadlineExceeded(problem))

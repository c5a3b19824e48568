"""The dispatcher: waiting work meets free model instances.

Owns the queue, the instances and the retries of one model version. Everything but the runs happens
on the event loop. Batches are formed late: only when an instance is free, from all that waits at
that moment, as the policy has it. A batch that fails is run again in halves, so that what is bad
fails alone. No call is lost, whatever raises. Must not know what the work is, nor who waits for it:
its payload does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import (
    DeadlineExceeded,
    Draining,
    EngineError,
    QueueTimeout,
    VecserveError,
)
from vecserve_server.observability.logging import get_logger
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.pace import Pace
from vecserve_server.scheduling.policies.policy import BatchPolicy, Entry
from vecserve_server.scheduling.run import Run

W = TypeVar("W")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

OnBatch: TypeAlias = Callable[[int, int, int, int], None]
"""Told of each batch that ran: rows, then input, infer and output times in ns. On the loop."""
TOO_LONG: Final = "the request waited in the queue for longer than it may"


class Payload(Protocol[W, R_contra]):
    """What the work of a dispatcher is, and who waits for it. Loop only."""

    def wanted(self, works: Sequence[W]) -> list[W]:
        """Return those that somebody still waits for."""
        ...

    def cost(self, works: Sequence[W]) -> int:
        """Return what running them costs, as the policy counts it."""
        ...

    def has_one_caller(self, works: Sequence[W]) -> bool:
        """Tell whether the same call waits for all of them, and no other."""
        ...

    def started(self, run: Run[W]) -> None:
        """Take note of a run that has started."""
        ...

    def ended(self, run: Run[W]) -> None:
        """Take note of a run that has ended, whichever way; its outcome comes next."""
        ...

    def answer(
        self, works: Sequence[W], result: R_contra, *, started_ns: int, ended_ns: int
    ) -> None:
        """Hand out what a run computed."""
        ...

    def expire(self, entry: Entry[W], now_ns: int) -> Entry[W] | None:
        """Fail those that wait for it no longer; return what waits on for the others."""
        ...

    def fail(self, works: Sequence[W], error: Exception) -> None:
        """Fail all that wait for any of these."""
        ...

    def fail_all_but(self, safe: AbstractSet[W], error: Exception) -> None:
        """Fail all that wait for anything else than what is safe."""
        ...


class Dispatcher(Generic[W, R]):
    """Queue, policy and instances of one model version. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        runs: Sequence[Callable[[Run[W]], R]],
        policy: BatchPolicy[W],
        payload: Payload[W, R],
        draining: str,
        clock_ns: Callable[[], int],
        cores: Cores | None,
    ) -> None:
        """Start one instance for each of `runs`; `draining` tells callers why it is closed."""
        self._name = name
        self._policy = policy
        self._payload = payload
        self._draining = draining
        self._clock_ns = clock_ns
        self._closed = False
        self._pace = Pace()
        self._retries: deque[Sequence[W]] = deque()
        self._alarm = Alarm(ring=self.dispatch, clock_ns=clock_ns)
        self._log = get_logger("scheduling")
        self._pool: InstancePool[Run[W], R] = InstancePool(
            name=name,
            runs=runs,
            on_finish=self._finish,
            on_free=self.dispatch,
            cores=cores,
            clock_ns=clock_ns,
        )

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return len(self._pool)

    @property
    def queued(self) -> int:
        """Pieces of work that wait for a run."""
        return len(self._policy) + sum(map(len, self._retries))

    def check_open(self) -> None:
        """Raise Draining where it takes no more work."""
        if self._closed:
            raise Draining(self._draining)

    def predict_ns(self, cost: int) -> int:
        """Tell how long work of that cost takes while other work waits; 0: nobody knows."""
        return self._pace.predict_ns(cost)

    def add(self, entry: Entry[W]) -> None:
        """Let work wait; `dispatch` must follow. Raises Overloaded where the policy does."""
        self._policy.add(entry)

    def dispatch(self, answering: Sequence[W] = ()) -> None:
        """Start what can be started; where that fails, so does all that waits.

        Of what is `answering`, the results are there.
        """
        try:
            self._form_and_start()
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_formed", extra={"fields": {"model": self._name}})
            self._fail_waiting(EngineError(f"a batch could not be formed: {error!r}"), answering)

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits, end the runs; return whether the instances stopped in time."""
        self._closed = True
        self._alarm.cancel()
        waiting = [entry.work for entry in self._policy.clear()]
        waiting += (work for works in self._retries for work in works)
        self._retries.clear()
        self._payload.fail(waiting, Draining(self._draining))
        for run in self._pool.unfinished:
            run.stop.stop()
        ended = await self._pool.close(timeout_s)
        for run in self._pool.unfinished:
            self._payload.ended(run)
            self._payload.fail(run.works, Draining(self._draining))
        return ended

    def _fail_waiting(self, error: Exception, answering: Sequence[W]) -> None:
        """Fail every call of which something is not running: nobody may know of it any more."""
        self._policy.clear()
        self._retries.clear()
        running = {work for run in self._pool.unfinished for work in run.works}
        self._payload.fail_all_but(running.union(answering), error)

    def _form_and_start(self) -> None:
        while self._retries and self._pool.available():
            self._start(self._retries.popleft())
        while len(self._policy):
            now_ns = self._clock_ns()
            batch = self._policy.form(now_ns=now_ns, free_instances=self._pool.available())
            for entry in batch.expired:
                again = self._payload.expire(entry, now_ns)
                if again is not None:
                    self._policy.add(again)
            if not batch.entries:
                break
            self._start([entry.work for entry in batch.entries])
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start(self, works: Sequence[W]) -> None:
        wanted = self._payload.wanted(works)
        if wanted:
            run = Run(wanted)
            self._pool.start(run)
            self._payload.started(run)

    def _finish(self, run: Run[W], finished: Finished[R]) -> None:
        try:
            self._payload.ended(run)
            if isinstance(finished.outcome, Exception):
                self._retry_or_fail(run.works, finished.outcome)
            else:
                self._hand_out(run.works, finished.outcome, finished)
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_answered", extra={"fields": {"model": self._name}})
            self._payload.fail(run.works, EngineError(f"a batch could not be answered: {error!r}"))
        self.dispatch()

    def _hand_out(self, works: Sequence[W], result: R, finished: Finished[R]) -> None:
        self._pace.ran(
            self._payload.cost(works),
            ended_ns=finished.ended_ns,
            more_waits=len(self._policy) > 0,
        )
        self.dispatch(answering=works)  # the instance works on while the answers go out
        self._payload.answer(
            works, result, started_ns=finished.started_ns, ended_ns=finished.ended_ns
        )

    def _retry_or_fail(self, works: Sequence[W], error: Exception) -> None:
        if self._closed:
            self._payload.fail(works, Draining(self._draining))
            return
        wanted = self._payload.wanted(works)
        is_whole = len(wanted) == len(works)
        if len(works) == 1 or (is_whole and self._payload.has_one_caller(wanted)):
            self._payload.fail(wanted, error)  # it is theirs alone
            return
        half = len(wanted) // 2
        self._retries += (part for part in (wanted[:half], wanted[half:]) if part)


def refusal(urgency: Urgency, now_ns: int) -> VecserveError:
    """Say why a request waits in the queue no longer."""
    if urgency.deadline_ns is not None and urgency.deadline_ns <= now_ns:
        return DeadlineExceeded("the deadline passed in the queue")
    return QueueTimeout(TOO_LONG)


def until(
    deadline_ns: int | None,
    done: asyncio.Future[R],
    *,
    clock_ns: Callable[[], int],
    too_late: str,
) -> asyncio.Future[R]:
    """Fail an answer with DeadlineExceeded that says `too_late` if it is not there in time."""
    if deadline_ns is None:
        return done

    def fail() -> None:
        if not done.done():
            done.set_exception(DeadlineExceeded(too_late))

    timer = done.get_loop().call_later((deadline_ns - clock_ns()) / 1e9, fail)
    done.add_done_callback(lambda _: timer.cancel())
    return done

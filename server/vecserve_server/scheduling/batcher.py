"""The dynamic batcher: waiting sequences meet free model instances.

Owns the submissions to one text encoder and its instances. Everything but the encoder runs happens
on the event loop. Batches are formed late: only when an instance is free, from all that waits at
that moment; nothing waits for company. Identical sequences share a computation. A batch that fails
is run again in halves, so that a bad sequence fails alone. Must not know protocols or what the
sequences mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.errors import DeadlineExceeded, Draining, EngineError, Overloaded, QueueTimeout
from vecserve_server.observability.logging import get_logger
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.alarm import Alarm
from vecserve_server.scheduling.computation import (
    NEVER_NS,
    Computation,
    Computations,
    Encoded,
    RunEncoder,
    Ticket,
    Urgency,
)
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.pace import Pace
from vecserve_server.scheduling.policies.policy import RETRY_AFTER_MS, BatchPolicy, Entry

# Times the wait that is expected: calls wait for the event loop as well, and the pace varies.
_CAUTION = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """What may wait at most."""

    entries: int
    tokens: int
    """Of all entries together; a call's own do not count where nothing else waits."""


class DynamicBatcher:
    """Queue, policy and instances of one model version. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        runs: Sequence[RunEncoder],
        policy: BatchPolicy[Computation],
        bounds: QueueBounds,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        statistics: ModelStatistics,
        cores: Cores | None = None,
        share_identical: bool = True,
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `computation.abandoned`."""
        self._name = name
        self._dim = dim
        self._policy = policy
        self._bounds = bounds
        self._pace = Pace()
        self._clock_ns = clock_ns
        self._statistics = statistics
        self._batch_items = metrics.batch_items.labels(model=name)
        self._batch_tokens = metrics.batch_tokens.labels(model=name)
        self._joined = metrics.joined_sequences.labels(model=name)
        self._closed = False
        self._alarm = Alarm(ring=self._dispatch, clock_ns=clock_ns)
        self._computations = Computations(share_identical=share_identical)
        self._retries: deque[Sequence[Computation]] = deque()
        self._tickets: dict[Ticket, None] = {}
        self._log = get_logger("scheduling")
        self._loop = asyncio.get_running_loop()
        self._pool: InstancePool[Sequence[Computation], Encodings] = InstancePool(
            name=name,
            runs=[partial(_run, run_encoder) for run_encoder in runs],
            on_finish=self._finish,
            on_free=self._dispatch,
            cores=cores,
            clock_ns=clock_ns,
        )
        statistics.queued = lambda: self.queued

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        return len(self._pool)

    @property
    def queued(self) -> int:
        """Sequences that wait for a run."""
        return len(self._policy) + sum(map(len, self._retries))

    async def submit(
        self,
        sequences: Sequence[TokenIds],
        *,
        priority: int = 0,
        deadline_ns: int | None = None,
        start_by_ns: int | None = None,
        admitted: bool = False,
    ) -> Encoded:
        """Encode sequences; row i of the answer belongs to sequence i.

        `admitted` are those of a call that `admit` let in. A cancelled caller costs nothing more
        than the runs that are in progress. Raises what `admit` does, QueueTimeout where runs had
        not begun by `start_by_ns`, or what the encoder raised.
        """
        urgency = self._enter(len(sequences), priority, deadline_ns, start_by_ns)
        if not admitted:
            self._refuse_if_behind(sum(map(len, sequences)), urgency)
        ticket = Ticket(
            count=len(sequences), dim=self._dim, urgency=urgency, done=self._loop.create_future()
        )
        self._tickets[ticket] = None
        try:
            new = self._computations.enter(ticket, sequences)
            if len(new) < len(sequences):
                self._joined.inc(len(sequences) - len(new))
            for computation in new:
                self._enqueue(computation, urgency)
            self._dispatch()
            await self._completion(ticket)
        finally:
            del self._tickets[ticket]
            self._computations.withdraw(ticket)
        return ticket.encoded

    def admit(
        self,
        count: int,
        *,
        tokens: int,
        priority: int = 0,
        deadline_ns: int | None = None,
        start_by_ns: int | None = None,
    ) -> None:
        """Let in a call of so many sequences and tokens, or more.

        Raises Draining, DeadlineExceeded, QueueTimeout, and Overloaded where the queue is full or
        is not expected to get to the call in time: a refusal spares a run that nobody waits for.
        """
        urgency = self._enter(count, priority, deadline_ns, start_by_ns)
        self._refuse_if_behind(tokens, urgency)

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits and stop the instances; return whether they ended in time."""
        self._closed = True
        self._alarm.cancel()
        waiting = [entry.work for entry in self._policy.clear()]
        self._fail([*waiting, *(each for batch in self._retries for each in batch)], _draining())
        self._retries.clear()
        ended = await self._pool.close(timeout_s)
        for batch in self._pool.unfinished:
            self._fail(batch, _draining())
        return ended

    def _enter(
        self, count: int, priority: int, deadline_ns: int | None, start_by_ns: int | None
    ) -> Urgency:
        if self._closed:
            raise _draining()
        if len(self._policy) + count > self._bounds.entries:
            raise self._overloaded(f"{len(self._policy)} sequences", count, self._bounds.entries)
        now_ns = self._clock_ns()
        urgency = Urgency(
            priority=priority, enqueued_ns=now_ns, deadline_ns=deadline_ns, start_by_ns=start_by_ns
        )
        if urgency.expires_ns <= now_ns:
            raise urgency.refusal(now_ns)
        return urgency

    def _refuse_if_behind(self, tokens: int, urgency: Urgency) -> None:
        """Refuse what is too much beside what waits; where nothing waits it is tried."""
        waiting = self._policy.queued_tokens
        if waiting and waiting + tokens > self._bounds.tokens:
            raise self._overloaded(f"{waiting} tokens", tokens, self._bounds.tokens)
        if urgency.expires_ns == NEVER_NS:
            return
        ahead = self._policy.tokens_ahead(urgency.priority, urgency.expires_ns)
        if not ahead:
            return
        wait_ns = int(_CAUTION * self._pace.predict_ns(ahead + tokens))
        late_ns = urgency.enqueued_ns + wait_ns - urgency.expires_ns
        if late_ns > 0:
            raise Overloaded(
                f"model {self._name}: {ahead} tokens wait, which takes longer than the request may",
                retry_after_ms=max(RETRY_AFTER_MS, late_ns // 1_000_000),
            )

    def _overloaded(self, waiting: str, more: int, limit: int) -> Overloaded:
        return Overloaded(
            f"model {self._name}: {waiting} wait and {more} more exceed the limit of {limit}",
            retry_after_ms=RETRY_AFTER_MS,
        )

    def _enqueue(self, computation: Computation, urgency: Urgency) -> None:
        expires_ns = computation.expires_ns
        self._policy.add(
            Entry(
                work=computation,
                tokens=len(computation.sequence),
                enqueued_ns=urgency.enqueued_ns,
                deadline_ns=None if expires_ns == NEVER_NS else expires_ns,
                priority=urgency.priority,
            )
        )

    async def _completion(self, ticket: Ticket) -> None:
        deadline_ns = ticket.urgency.deadline_ns
        if deadline_ns is None:
            await ticket.done
            return
        try:
            async with asyncio.timeout((deadline_ns - self._clock_ns()) / 1e9):
                await ticket.done
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the encoder was done") from None

    def _dispatch(self, answering: Sequence[Computation] = ()) -> None:
        """Start what can be started; where that fails, so do all calls that wait.

        Of those that are `answering`, the results are there.
        """
        try:
            self._form_and_start()
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_formed", extra={"fields": {"model": self._name}})
            self._fail_waiting(EngineError(f"a batch could not be formed: {error!r}"), answering)

    def _fail_waiting(self, error: Exception, answering: Sequence[Computation]) -> None:
        """Fail every call of which something is not running: nobody may know of it any more."""
        self._policy.clear()
        self._retries.clear()
        safe = {each for batch in (*self._pool.unfinished, answering) for each in batch}
        for ticket in list(self._tickets):
            if any(place.computation not in safe for place in ticket.places):
                self._fail_ticket(ticket, error)

    def _form_and_start(self) -> None:
        self._start_retries()
        while len(self._policy):
            now_ns = self._clock_ns()
            batch = self._policy.form(now_ns=now_ns, free_instances=self._pool.available())
            for entry in batch.expired:
                self._expire(entry.work, now_ns)
            if not batch.entries:
                break
            self._start([entry.work for entry in batch.entries])
        self._alarm.set(self._policy.wake_ns(self._clock_ns()))

    def _start_retries(self) -> None:
        while self._retries and self._pool.available():
            self._start(self._retries.popleft())

    def _start(self, computations: Sequence[Computation]) -> None:
        wanted = [each for each in computations if each.places]
        if not wanted:
            return
        for computation in wanted:
            computation.expires_ns = 0
        self._pool.start(wanted)
        self._batch_items.observe(len(wanted))
        self._batch_tokens.observe(sum(len(each.sequence) for each in wanted))

    def _finish(self, computations: Sequence[Computation], run: Finished[Encodings]) -> None:
        try:
            if isinstance(run.outcome, Exception):
                self._retry_or_fail(computations, run.outcome)
            else:
                self._hand_out(computations, run, run.outcome)
        except Exception as error:  # noqa: BLE001 - no call may be lost
            self._log.exception("batch_not_answered", extra={"fields": {"model": self._name}})
            self._fail(computations, EngineError(f"a batch could not be answered: {error!r}"))
        self._dispatch()

    def _hand_out(
        self,
        computations: Sequence[Computation],
        run: Finished[Encodings],
        encodings: Encodings,
    ) -> None:
        for computation in computations:
            self._computations.forget(computation)
        self._pace.ran(
            sum(len(each.sequence) for each in computations),
            ended_ns=run.ended_ns,
            more_waits=len(self._policy) > 0,
        )
        self._dispatch(answering=computations)  # the instance works on while the answers go out
        answered = sum(len(each.places) for each in computations)
        self._statistics.executed(answered, 0, run.ended_ns - run.started_ns, 0)
        for computation, vector, norm in zip(computations, *encodings, strict=True):
            computation.fill(vector, norm, started_ns=run.started_ns, ended_ns=run.ended_ns)

    def _expire(self, computation: Computation, now_ns: int) -> None:
        """Fail those that may wait no longer; the computation waits on for the others."""
        if computation.expires_ns > now_ns:  # it is the policy that lets nobody wait for so long
            self._fail([computation], QueueTimeout("Request timeout expired"))
            return
        for ticket in {place.ticket for place in computation.places}:
            if ticket.urgency.expires_ns <= now_ns:
                self._fail_ticket(ticket, ticket.urgency.refusal(now_ns))
        left = [place.ticket.urgency for place in computation.places]
        if left:
            computation.expires_ns = min(urgency.expires_ns for urgency in left)
            self._enqueue(computation, left[0])

    def _retry_or_fail(self, computations: Sequence[Computation], error: Exception) -> None:
        if self._closed:
            self._fail(computations, _draining())
            return
        wanted = [each for each in computations if each.places]
        callers = {place.ticket for each in wanted for place in each.places}
        if len(computations) == 1 or (len(wanted) == len(computations) and len(callers) == 1):
            self._fail(wanted, error)  # it is theirs alone
            return
        half = len(wanted) // 2
        self._retries += (part for part in (wanted[:half], wanted[half:]) if part)

    def _fail(self, computations: Sequence[Computation], error: Exception) -> None:
        tickets = {place.ticket: None for each in computations for place in each.places}
        for ticket in tickets:
            self._fail_ticket(ticket, error)

    def _fail_ticket(self, ticket: Ticket, error: Exception) -> None:
        ticket.fail(error)
        self._computations.withdraw(ticket)


def _run(run_encoder: RunEncoder, computations: Sequence[Computation]) -> Encodings:
    encodings = run_encoder([each.sequence for each in computations])
    if len(encodings.vectors) != len(computations):
        got, expected = len(encodings.vectors), len(computations)
        raise EngineError(f"the encoder gave {got} vectors for {expected} sequences")
    return encodings


def _draining() -> Draining:
    return Draining("the server is shutting down")

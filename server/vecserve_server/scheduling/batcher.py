"""The dynamic batcher of encoders: waiting items meet free model instances.

Owns what may wait for one encoder, and the way of a submission through its queue. Identical items
share a computation. Must not know protocols or what the items are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias

from vecserve_server.domain.urgency import NEVER_NS, Urgency
from vecserve_server.domain.vectors import Encodings
from vecserve_server.errors import EngineError, Overloaded
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.computation import Computation, Computations, Item, Ticket
from vecserve_server.scheduling.compute import UNHURRIED, Computed
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.dispatcher import Dispatcher, OnBatch, refusal, until
from vecserve_server.scheduling.encoder_payload import EncoderPayload
from vecserve_server.scheduling.policies.policy import RETRY_AFTER_MS, BatchPolicy
from vecserve_server.scheduling.run import Run

RunEncoder: TypeAlias = Callable[[Sequence[Item]], Encodings]
"""N items to N encodings; synchronous, safe to call from several threads."""

# Times the wait that is expected: calls wait for the event loop as well, and the pace varies.
_CAUTION = 1.6


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBounds:
    """What may wait at most."""

    entries: int
    tokens: int
    """Of all entries together; a call's own do not count where nothing else waits."""


class DynamicBatcher(Generic[Item]):
    """The `Compute` of one version of an encoder. Loop only."""

    def __init__(
        self,
        *,
        name: str,
        dim: int,
        runs: Sequence[RunEncoder[Item]],
        computations: Computations[Item],
        policy: BatchPolicy[Computation[Item]],
        bounds: QueueBounds,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        on_run: OnBatch,
        cores: Cores | None = None,
    ) -> None:
        """Start one instance for each of `runs`; the policy must know `computation.abandoned`."""
        self._name = name
        self._dim = dim
        self._cost = computations.cost
        self._policy = policy
        self._bounds = bounds
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._payload = EncoderPayload(
            name=name, computations=computations, metrics=metrics, on_run=on_run
        )
        self._dispatcher: Dispatcher[Computation[Item], Encodings] = Dispatcher(
            name=name,
            runs=[partial(_run, run_encoder) for run_encoder in runs],
            policy=policy,
            payload=self._payload,
            draining="the server is shutting down",
            clock_ns=clock_ns,
            cores=cores,
        )

    @property
    def instance_count(self) -> int:
        """See `Compute`."""
        return self._dispatcher.instance_count

    @property
    def queued(self) -> int:
        """See `Compute`: items, identical ones once."""
        return self._dispatcher.queued

    def admit(self, count: int, *, cost: int, urgency: Urgency = UNHURRIED) -> None:
        """See `Compute`; the cost is in tokens."""
        expires_ns = urgency.expires_ns
        now_ns = self._enter(count, urgency, expires_ns)
        self._refuse_if_behind(cost, urgency.priority, expires_ns, now_ns)

    async def submit(
        self, work: Sequence[Item], urgency: Urgency = UNHURRIED, *, admitted: bool = False
    ) -> Computed[Encodings]:
        """See `Compute`; row i of the result belongs to item i."""
        expires_ns = urgency.expires_ns
        now_ns = self._enter(len(work), urgency, expires_ns)
        if not admitted:
            cost = sum(map(self._cost, work))
            self._refuse_if_behind(cost, urgency.priority, expires_ns, now_ns)
        ticket: Ticket[Item] = Ticket(
            count=len(work),
            dim=self._dim,
            urgency=urgency,
            expires_ns=expires_ns,
            enqueued_ns=now_ns,
            done=self._loop.create_future(),
        )
        try:
            for entry in self._payload.enter(ticket, work):
                self._dispatcher.add(entry)
            self._dispatcher.dispatch()
            await until(
                urgency.deadline_ns,
                ticket.done,
                clock_ns=self._clock_ns,
                too_late="the deadline passed before the encoder was done",
            )
        finally:
            self._payload.leave(ticket)
        return ticket.computed

    async def close(self, timeout_s: float) -> bool:
        """See `Compute`."""
        return await self._dispatcher.close(timeout_s)

    def _enter(self, count: int, urgency: Urgency, expires_ns: int) -> int:
        """Refuse what cannot be served at all; return the time of arrival."""
        self._dispatcher.check_open()
        waiting = len(self._policy)
        if waiting + count > self._bounds.entries:
            raise self._overloaded(f"{waiting} sequences", count, self._bounds.entries)
        now_ns = self._clock_ns()
        if expires_ns <= now_ns:
            raise refusal(urgency, now_ns)
        return now_ns

    def _refuse_if_behind(self, tokens: int, priority: int, expires_ns: int, now_ns: int) -> None:
        """Refuse what is too much beside what waits; where nothing waits it is tried."""
        waiting = self._policy.queued_tokens
        if waiting and waiting + tokens > self._bounds.tokens:
            raise self._overloaded(f"{waiting} tokens", tokens, self._bounds.tokens)
        if expires_ns == NEVER_NS:
            return
        ahead = self._policy.tokens_ahead(priority, expires_ns)
        if not ahead:
            return
        wait_ns = int(_CAUTION * self._dispatcher.predict_ns(ahead + tokens))
        late_ns = now_ns + wait_ns - expires_ns
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


def _run(run_encoder: RunEncoder[Item], run: Run[Computation[Item]]) -> Encodings:
    encodings = run_encoder([each.item for each in run.works])
    if len(encodings.vectors) != len(run.works):
        got, expected = len(encodings.vectors), len(run.works)
        raise EngineError(f"the encoder gave {got} vectors for {expected} sequences")
    return encodings

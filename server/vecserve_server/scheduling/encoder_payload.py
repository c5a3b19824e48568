"""What an encoder's dispatcher works on: computations that callers share.

Owns the submissions that are open, and what becomes of them when a computation runs, fails or waits
for too long. Must not know the queue, the instances or what the items are. Loop only.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Generic

from vecserve_server.domain.urgency import NEVER_NS
from vecserve_server.domain.vectors import Encodings
from vecserve_server.errors import QueueTimeout
from vecserve_server.observability.metrics import Metrics
from vecserve_server.scheduling.computation import Computation, Computations, Item, Ticket
from vecserve_server.scheduling.dispatcher import TOO_LONG, OnBatch, refusal
from vecserve_server.scheduling.policies.policy import Entry
from vecserve_server.scheduling.run import Run


class EncoderPayload(Generic[Item]):
    """The `Payload` of computations; a submission fails as one."""

    def __init__(
        self, *, name: str, computations: Computations[Item], metrics: Metrics, on_run: OnBatch
    ) -> None:
        self._computations = computations
        self._on_run = on_run
        self._tickets: dict[Ticket[Item], None] = {}
        self._batch_items = metrics.batch_items.labels(model=name)
        self._batch_tokens = metrics.batch_tokens.labels(model=name)
        self._joined = metrics.joined_sequences.labels(model=name)

    def enter(self, ticket: Ticket[Item], items: Sequence[Item]) -> list[Entry[Computation[Item]]]:
        """Take in a submission; returns what must wait for it, beside what others wait for."""
        self._tickets[ticket] = None
        new = self._computations.enter(ticket, items)
        if len(new) < len(items):
            self._joined.inc(len(items) - len(new))
        return [_entry(computation, ticket) for computation in new]

    def leave(self, ticket: Ticket[Item]) -> None:
        """Let a submission go, answered or not."""
        self._tickets.pop(ticket, None)
        self._computations.withdraw(ticket)

    def wanted(self, works: Sequence[Computation[Item]]) -> list[Computation[Item]]:
        """See `Payload`."""
        return [each for each in works if each.places]

    def cost(self, works: Sequence[Computation[Item]]) -> int:
        """See `Payload`: tokens, or what else the items are measured in."""
        return sum(each.cost for each in works)

    def has_one_caller(self, works: Sequence[Computation[Item]]) -> bool:
        """See `Payload`."""
        return len({place.ticket for each in works for place in each.places}) == 1

    def started(self, run: Run[Computation[Item]]) -> None:
        """See `Payload`: whoever comes now may join, whatever its hurry."""
        for computation in run.works:
            computation.expires_ns = 0
        self._batch_items.observe(len(run.works))
        self._batch_tokens.observe(self.cost(run.works))

    def ended(self, run: Run[Computation[Item]]) -> None:
        """See `Payload`."""

    def answer(
        self,
        works: Sequence[Computation[Item]],
        result: Encodings,
        *,
        started_ns: int,
        ended_ns: int,
    ) -> None:
        """See `Payload`."""
        for computation in works:
            self._computations.forget(computation)
        self._on_run(sum(len(each.places) for each in works), 0, ended_ns - started_ns, 0)
        for computation, vector, norm in zip(works, *result, strict=True):
            computation.fill(vector, norm, started_ns=started_ns, ended_ns=ended_ns)

    def expire(
        self, entry: Entry[Computation[Item]], now_ns: int
    ) -> Entry[Computation[Item]] | None:
        """See `Payload`."""
        computation = entry.work
        if computation.expires_ns > now_ns:  # it is the policy that lets nobody wait for so long
            self.fail([computation], QueueTimeout(TOO_LONG))
            return None
        for ticket in {place.ticket for place in computation.places}:
            if ticket.expires_ns <= now_ns:
                self._fail(ticket, refusal(ticket.urgency, now_ns))
        left = [place.ticket for place in computation.places]
        if not left:
            return None
        computation.expires_ns = min(ticket.expires_ns for ticket in left)
        return _entry(computation, left[0])

    def fail(self, works: Sequence[Computation[Item]], error: Exception) -> None:
        """See `Payload`."""
        for ticket in {place.ticket: None for each in works for place in each.places}:
            self._fail(ticket, error)

    def fail_all_but(self, safe: AbstractSet[Computation[Item]], error: Exception) -> None:
        """See `Payload`."""
        for ticket in list(self._tickets):
            if any(place.computation not in safe for place in ticket.places):
                self._fail(ticket, error)

    def _fail(self, ticket: Ticket[Item], error: Exception) -> None:
        ticket.fail(error)
        self._computations.withdraw(ticket)


def _entry(computation: Computation[Item], ticket: Ticket[Item]) -> Entry[Computation[Item]]:
    expires_ns = computation.expires_ns
    return Entry(
        work=computation,
        tokens=computation.cost,
        enqueued_ns=ticket.enqueued_ns,
        deadline_ns=None if expires_ns == NEVER_NS else expires_ns,
        priority=ticket.urgency.priority,
    )

"""What callers of an encoder wait for, and the computations that give it to them.

Owns which sequences share a computation and where each result goes. Must not know policies,
threads or when runs happen. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vecserve_server.domain.vectors import Encodings, TokenIds, Vectors
from vecserve_server.errors import DeadlineExceeded, QueueTimeout, VecserveError

RunEncoder: TypeAlias = Callable[[Sequence[TokenIds]], Encodings]
"""N token sequences to N encodings; synchronous, safe to call from several threads."""
Key: TypeAlias = tuple[int, bytes]
"""Priority and token ids."""
NEVER_NS = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What a submission got, and its longest waits."""

    encodings: Encodings
    queue_us: int
    encode_us: int


class Urgency:
    """How a submission is to be served; times are monotonic."""

    __slots__ = ("deadline_ns", "enqueued_ns", "expires_ns", "priority")

    def __init__(
        self,
        *,
        priority: int,
        enqueued_ns: int,
        deadline_ns: int | None,
        start_by_ns: int | None,
    ) -> None:
        """Take when the caller stops waiting, and when the run must have begun."""
        self.priority = priority
        self.enqueued_ns = enqueued_ns
        self.deadline_ns = deadline_ns
        self.expires_ns = min(
            NEVER_NS if deadline_ns is None else deadline_ns,
            NEVER_NS if start_by_ns is None else start_by_ns,
        )
        """When it has waited in the queue for too long."""

    def refusal(self, now_ns: int) -> VecserveError:
        """Say why it waits no longer."""
        if self.deadline_ns is not None and self.deadline_ns <= now_ns:
            return DeadlineExceeded("the deadline passed in the queue")
        return QueueTimeout("Request timeout expired")


class Ticket:
    """One submission: where its results gather until the last one is in."""

    __slots__ = ("done", "encode_ns", "encodings", "missing", "places", "queue_ns", "urgency")

    def __init__(
        self, *, count: int, dim: int, urgency: Urgency, done: asyncio.Future[None]
    ) -> None:
        self.urgency = urgency
        self.encodings = Encodings(np.empty((count, dim), np.float32), np.empty(count, np.float32))
        self.places: list[Place] = []
        self.missing = count
        self.done = done
        if not count:
            done.set_result(None)
        self.queue_ns = 0
        self.encode_ns = 0

    @property
    def encoded(self) -> Encoded:
        """The answer, when all results are in."""
        return Encoded(
            encodings=self.encodings,
            queue_us=self.queue_ns // 1000,
            encode_us=self.encode_ns // 1000,
        )

    def fail(self, error: Exception) -> None:
        """Answer the whole submission with an error."""
        if not self.done.done():
            self.done.set_exception(error)

    def fill(self, index: int, vector: Vectors, norm: np.float32) -> None:
        """Take one result; the last one completes the submission."""
        self.encodings.vectors[index] = vector
        self.encodings.norms[index] = norm
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


class Place:
    """Where one result of a submission comes from and goes to."""

    __slots__ = ("computation", "index", "ticket")

    def __init__(self, ticket: Ticket, index: int, computation: Computation) -> None:
        self.ticket = ticket
        self.index = index
        self.computation = computation


class Computation:
    """A sequence to encode, and the places that its vector goes to, the first that came first."""

    __slots__ = ("expires_ns", "key", "places", "sequence")

    def __init__(self, key: Key, sequence: TokenIds, *, expires_ns: int) -> None:
        self.key = key
        self.sequence = sequence
        self.places: dict[Place, None] = {}
        self.expires_ns = expires_ns
        """When it leaves the queue; none of its places expires before that. 0: it has left."""

    def fill(self, vector: Vectors, norm: np.float32, *, started_ns: int, ended_ns: int) -> None:
        """Give the result to all that wait for it."""
        for place in self.places:
            ticket = place.ticket
            ticket.queue_ns = max(ticket.queue_ns, started_ns - ticket.urgency.enqueued_ns)
            ticket.encode_ns = max(ticket.encode_ns, ended_ns - started_ns)
            ticket.fill(place.index, vector, norm)


def abandoned(computation: Computation) -> bool:
    """Tell whether nobody waits for the result any more."""
    return not computation.places


class Computations:
    """Every computation that waits or runs.

    A sequence joins the computation of an identical one that was submitted with the same priority,
    unless that could leave the queue later than the sequence may. Each caller may go away; what
    nobody waits for is forgotten.
    """

    def __init__(self, *, share_identical: bool = True) -> None:
        self._share_identical = share_identical
        self._by_key: dict[Key, Computation] = {}

    def __len__(self) -> int:
        """Computations that others may join."""
        return len(self._by_key)

    def enter(self, ticket: Ticket, sequences: Sequence[TokenIds]) -> list[Computation]:
        """Take in a submission; returns the computations that are new."""
        new = []
        urgency = ticket.urgency
        for index, sequence in enumerate(sequences):
            key = (urgency.priority, sequence.tobytes())
            computation = self._by_key.get(key) if self._share_identical else None
            if computation is None or computation.expires_ns > urgency.expires_ns:
                computation = Computation(key, sequence, expires_ns=urgency.expires_ns)
                self._by_key[key] = computation
                new.append(computation)
            place = Place(ticket, index, computation)
            computation.places[place] = None
            ticket.places.append(place)
        return new

    def withdraw(self, ticket: Ticket) -> None:
        """Let a submission go, wherever its results are still missing."""
        for place in ticket.places:
            computation = place.computation
            computation.places.pop(place, None)
            if not computation.places:
                self.forget(computation)
        ticket.places.clear()

    def forget(self, computation: Computation) -> None:
        """Let nobody join a computation any more."""
        if self._by_key.get(computation.key) is computation:
            del self._by_key[computation.key]

"""What callers of an encoder wait for, and the computations that give it to them.

Owns which items share a computation and where each result goes. Must not know policies, threads,
when runs happen, nor what the items are. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import Encodings, Vectors
from vecserve_server.scheduling.compute import Computed

Item = TypeVar("Item")
"""The token ids of a text; later the patches of an image, or the frames of a recording."""
Key: TypeAlias = tuple[int, bytes]
"""Priority, and what only identical items share."""


class Ticket(Generic[Item]):
    """One submission: where its results gather until the last one is in."""

    __slots__ = (
        "done",
        "encodings",
        "enqueued_ns",
        "expires_ns",
        "infer_ns",
        "missing",
        "places",
        "queue_ns",
        "urgency",
    )

    def __init__(
        self,
        *,
        count: int,
        dim: int,
        urgency: Urgency,
        expires_ns: int,
        enqueued_ns: int,
        done: asyncio.Future[None],
    ) -> None:
        self.urgency = urgency
        self.enqueued_ns = enqueued_ns
        self.expires_ns = expires_ns
        self.encodings = Encodings(np.empty((count, dim), np.float32), np.empty(count, np.float32))
        self.places: list[Place[Item]] = []
        self.missing = count
        self.done = done
        if not count:
            done.set_result(None)
        self.queue_ns = 0
        self.infer_ns = 0

    @property
    def computed(self) -> Computed[Encodings]:
        """The answer, when all results are in, with the longest waits."""
        timings = Timings(queue_ns=self.queue_ns, compute_infer_ns=self.infer_ns)
        return Computed(result=self.encodings, timings=timings)

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


class Place(Generic[Item]):
    """Where one result of a submission comes from and goes to."""

    __slots__ = ("computation", "index", "ticket")

    def __init__(self, ticket: Ticket[Item], index: int, computation: Computation[Item]) -> None:
        self.ticket = ticket
        self.index = index
        self.computation = computation


class Computation(Generic[Item]):
    """An item to encode, and the places that its vector goes to, the first that came first."""

    __slots__ = ("cost", "expires_ns", "item", "key", "places")

    def __init__(self, key: Key, item: Item, *, cost: int, expires_ns: int) -> None:
        self.key = key
        self.item = item
        self.cost = cost
        self.places: dict[Place[Item], None] = {}
        self.expires_ns = expires_ns
        """When it leaves the queue; none of its places expires before that. 0: it has left."""

    def fill(self, vector: Vectors, norm: np.float32, *, started_ns: int, ended_ns: int) -> None:
        """Give the result to all that wait for it."""
        for place in self.places:
            ticket = place.ticket
            ticket.queue_ns = max(ticket.queue_ns, started_ns - ticket.enqueued_ns)
            ticket.infer_ns = max(ticket.infer_ns, ended_ns - started_ns)
            ticket.fill(place.index, vector, norm)


def abandoned(computation: Computation[Item]) -> bool:
    """Tell whether nobody waits for the result any more."""
    return not computation.places


class Computations(Generic[Item]):
    """Every computation that waits or runs.

    An item joins the computation of an identical one that was submitted with the same priority,
    unless that could leave the queue later than the item may. Each caller may go away; what nobody
    waits for is forgotten.
    """

    def __init__(
        self,
        *,
        key: Callable[[Item], bytes],
        cost: Callable[[Item], int],
        share_identical: bool = True,
    ) -> None:
        """Take the bytes that only identical items share, and the tokens that an item costs."""
        self._key = key
        self.cost = cost
        self._share_identical = share_identical
        self._by_key: dict[Key, Computation[Item]] = {}

    def __len__(self) -> int:
        """Computations that others may join."""
        return len(self._by_key)

    def enter(self, ticket: Ticket[Item], items: Sequence[Item]) -> list[Computation[Item]]:
        """Take in a submission; returns the computations that are new."""
        new = []
        priority, expires_ns = ticket.urgency.priority, ticket.expires_ns
        for index, item in enumerate(items):
            key = (priority, self._key(item))
            computation = self._by_key.get(key) if self._share_identical else None
            if computation is None or computation.expires_ns > expires_ns:
                computation = Computation(key, item, cost=self.cost(item), expires_ns=expires_ns)
                self._by_key[key] = computation
                new.append(computation)
            place = Place(ticket, index, computation)
            computation.places[place] = None
            ticket.places.append(place)
        return new

    def withdraw(self, ticket: Ticket[Item]) -> None:
        """Let a submission go, wherever its results are still missing."""
        for place in ticket.places:
            computation = place.computation
            computation.places.pop(place, None)
            if not computation.places:
                self.forget(computation)
        ticket.places.clear()

    def forget(self, computation: Computation[Item]) -> None:
        """Let nobody join a computation any more."""
        if self._by_key.get(computation.key) is computation:
            del self._by_key[computation.key]

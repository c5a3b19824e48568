"""The seam between what wants to be computed and whatever computes it.

Owns the interface that every model's queue and instances have in common. Must not know batches,
threads, nor what is computed; a client of another process may stand here.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency

W_contra = TypeVar("W_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

UNHURRIED: Final = Urgency()


class Computed(NamedTuple, Generic[R_co]):
    """What a submission got, and where its time went."""

    result: R_co
    timings: Timings


class Compute(Protocol[W_contra, R_co]):
    """The queue and the instances of one model version. Loop only."""

    @property
    def instance_count(self) -> int:
        """Runs that can be in progress at once."""
        ...

    @property
    def queued(self) -> int:
        """What waits for a run."""
        ...

    def admit(self, count: int, *, cost: int, urgency: Urgency = UNHURRIED) -> None:
        """Let in a call of so many items that cost so much, or more.

        Raises Draining, DeadlineExceeded, QueueTimeout, and Overloaded where the queue is full or
        is not expected to get to the call in time: a refusal spares a run that nobody waits for.
        """
        ...

    async def submit(
        self, work: W_contra, urgency: Urgency = UNHURRIED, *, admitted: bool = False
    ) -> Computed[R_co]:
        """Compute; `admitted` is the work of a call that `admit` let in.

        A cancelled caller costs nothing more than the runs that are in progress. Raises what
        `admit` does, QueueTimeout where runs have not begun in time, or what a run raised.
        """
        ...

    async def close(self, timeout_s: float) -> bool:
        """Fail what still waits and stop the instances; return whether they ended in time."""
        ...

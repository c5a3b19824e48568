"""The seam between a batcher and the rule by which it forms batches.

Owns what waits (`Entry`), what is decided (`Batch`) and the interface of a policy. A policy is
sans I/O: no clock, no threads, no asyncio; time comes in as an argument, decisions come out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

RETRY_AFTER_MS = 100
"""When the caller that a full queue refused may try again."""


# Each entry is itself and equals no other: work need not be hashable or comparable. Not frozen:
# one is made for each sequence, and freezing would double what that costs.
@dataclass(slots=True, kw_only=True, eq=False)
class Entry(Generic[T]):
    """One piece of work that waits for a run."""

    work: T
    """What the caller needs to find its result; the policy never looks inside."""
    tokens: int
    """What running it costs."""
    enqueued_ns: int
    deadline_ns: int | None
    """Monotonic time after which running it is pointless."""
    rows: int = 1
    """Rows of a batch that it takes."""
    priority: int = 0
    """1 is the highest; 0: the policy's default."""
    timeout_us: int = 0
    """How long it may wait, where the policy lets an entry say so; 0: as the policy has it."""
    shape: Hashable = ()
    """What must be equal among the entries of a batch, where the policy asks for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """The policy's decision: what to run now, and what has expired instead."""

    entries: Sequence[Entry[T]]
    expired: Sequence[Entry[T]]
    """Those whose deadline, or else whose time in the queue, is over."""


class BatchPolicy(Protocol[T]):
    """A queue that hands out batches. One thread only."""

    def __len__(self) -> int:
        """Entries that wait, abandoned ones that were not met yet included."""
        ...

    def add(self, entry: Entry[T]) -> None:
        """Append an entry; raises Overloaded where its part of the queue is full."""
        ...

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Remove and return what the next free instance should run, and all that has expired.

        There may be nothing to run although entries wait: the policy waits for more, or no
        instance is free. Abandoned entries met on the way are dropped without a trace.
        """
        ...

    def wake_ns(self, now_ns: int) -> int | None:
        """Return when `form` must be called again although nothing has arrived or become free.

        Never later than that, now and then earlier; None: not before something happens.
        """
        ...

    @property
    def queued_tokens(self) -> int:
        """Tokens of the entries that wait, where the policy counts them; else 0."""
        ...

    def tokens_ahead(self, priority: int, expires_ns: int) -> int:
        """Tell about how many tokens run before a new entry that expires then; 0 if that is open.

        Abandoned entries that were not met yet are included.
        """
        ...

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        ...

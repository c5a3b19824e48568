"""Which waiting sequences run together.

Owns the order of the queue and the forming of batches. Sans I/O: no clock, no threads, no
asyncio; time comes in as an argument, decisions come out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[T]):
    """One sequence that waits for an encoder run."""

    work: T
    """What the caller needs to find its result; the policy never looks inside."""
    tokens: int
    enqueued_ns: int
    deadline_ns: int | None
    """Monotonic time after which running it is pointless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[T]):
    """The policy's decision: what to run now, and what has expired instead."""

    entries: Sequence[Entry[T]]
    expired: Sequence[Entry[T]]


class BatchPolicy(Protocol[T]):
    """A queue that hands out batches. One thread only."""

    def __len__(self) -> int:
        """Entries that wait, abandoned ones that were not met yet included."""
        ...

    def add(self, entry: Entry[T]) -> None:
        """Append an entry."""
        ...

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Remove and return what the next free instance should run; may be empty.

        Abandoned entries met on the way are dropped without a trace.
        """
        ...

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        ...


class EncoderPolicy(Generic[T]):
    """Fill a run up to a token budget, oldest first, with a bounded look-ahead.

    The oldest live entry is in every batch, so none starves. Entries that do not fit are passed
    over, and keep their place. When several instances are free the waiting tokens are shared out,
    down to `min_share_tokens`, below which splitting costs more per run than it saves.
    """

    def __init__(
        self,
        *,
        run_tokens: int,
        min_share_tokens: int,
        look_ahead_entries: int,
        abandoned: Callable[[T], bool],
    ) -> None:
        self._run_tokens = run_tokens
        self._min_share_tokens = min_share_tokens
        self._look_ahead_entries = look_ahead_entries
        self._abandoned = abandoned
        self._queue: deque[Entry[T]] = deque()
        self._queued_tokens = 0

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._queue)

    def add(self, entry: Entry[T]) -> None:
        """Append an entry."""
        self._queue.append(entry)
        self._queued_tokens += entry.tokens

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Take the oldest entry and, within the budget, what fits beside it."""
        room = self._budget(free_instances)
        taken: list[Entry[T]] = []
        expired: list[Entry[T]] = []
        passed_over: list[Entry[T]] = []
        while self._queue and (room > 0 or not taken):
            if len(passed_over) == self._look_ahead_entries:
                break
            entry = self._pop()
            if self._abandoned(entry.work):
                continue
            if entry.deadline_ns is not None and entry.deadline_ns <= now_ns:
                expired.append(entry)
            elif not taken or entry.tokens <= room:
                taken.append(entry)
                room -= entry.tokens
            else:
                passed_over.append(entry)
        self._put_back(passed_over)
        return Batch(entries=taken, expired=expired)

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        entries = list(self._queue)
        self._queue.clear()
        self._queued_tokens = 0
        return entries

    def _budget(self, free_instances: int) -> int:
        share = -(-self._queued_tokens // max(1, free_instances))
        return min(self._run_tokens, max(self._min_share_tokens, share))

    def _pop(self) -> Entry[T]:
        entry = self._queue.popleft()
        self._queued_tokens -= entry.tokens
        return entry

    def _put_back(self, entries: Sequence[Entry[T]]) -> None:
        self._queue.extendleft(reversed(entries))
        self._queued_tokens += sum(entry.tokens for entry in entries)

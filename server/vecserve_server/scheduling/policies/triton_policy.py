"""Batches for any model, formed as Triton's dynamic batcher forms them.

Owns the queues of the priority levels and the decision which requests go together, and when.
Sans I/O, as every policy. Batches are formed when an instance is free, so there is no batch that
is formed and still grows. Timeouts take effect on time.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic

from vecserve_server.errors import Overloaded
from vecserve_server.scheduling.policies.live_heap import LiveHeap
from vecserve_server.scheduling.policies.policy import RETRY_AFTER_MS, Batch, Entry, T
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)

_LOOKS_PER_REFUSAL = 64


class TritonPolicy(Generic[T]):
    """First in, first out within a priority level, without look-ahead.

    A batch ends before the first request that is too big for it or of another shape; a preferred
    size is taken at once; anything less waits until the oldest request in it has waited for the
    queue delay, a lone request too. Without a delay nothing waits for company.
    """

    def __init__(
        self,
        *,
        settings: TritonPolicySettings,
        abandoned: Callable[[T], bool],
    ) -> None:
        self._settings = settings
        self._delay_ns = settings.max_queue_delay_us * 1000
        self._abandoned = abandoned
        self._levels: dict[int, _Level[T]] = {}
        self._in_use: list[int] = []
        # By number, which is the order of arrival.
        self._waiting: dict[int, _Level[T]] = {}
        self._timers = LiveHeap(self._waiting)
        self._next_number = 0
        self._delay_ends_ns: int | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def add(self, entry: Entry[T]) -> None:
        """Append a request to its level; raises Overloaded where that is full."""
        level = self._level(self._settings.level(entry.priority))
        self._refuse_if_full(level)
        number = self._next_number
        self._next_number += 1
        level.fresh[number] = entry
        self._waiting[number] = level
        for time_ns in (level.timeout_ns(entry), entry.deadline_ns):
            if time_ns is not None:
                self._timers.push((time_ns, number))

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Take a batch from the head of the queue, unless it had better wait for more."""
        expired = self._expire(now_ns)
        self._delay_ends_ns = None
        chosen = self._choose(now_ns) if free_instances > 0 else []
        return Batch(entries=[self._remove(number) for number in chosen], expired=expired)

    def wake_ns(self, now_ns: int) -> int | None:  # noqa: ARG002 - the interface's
        """Return when the next request expires or the delay is over."""
        timer = self._timers.peek()
        if timer is None or self._delay_ends_ns is None:
            return self._delay_ends_ns if timer is None else timer[0]
        return min(timer[0], self._delay_ends_ns)

    @property
    def queued_tokens(self) -> int:
        """0: Triton counts requests, not what they cost."""
        return 0

    def tokens_ahead(self, priority: int, expires_ns: int) -> int:  # noqa: ARG002 - the interface's
        """Return 0: Triton refuses nobody for what it expects."""
        return 0

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything, in the order of arrival."""
        self._delay_ends_ns = None
        return [self._remove(number) for number in list(self._waiting)]

    def _level(self, number: int) -> _Level[T]:
        level = self._levels.get(number)
        if level is None:
            level = self._levels[number] = _Level(self._settings.queue_policy(number))
            insort(self._in_use, number)
        return level

    def _refuse_if_full(self, level: _Level[T]) -> None:
        if not level.is_full():
            return
        # The abandoned take nobody's place. Looking for them is as cheap as refusing, on average.
        level.looks += _LOOKS_PER_REFUSAL
        if level.looks >= len(level):
            level.looks = 0
            self._drop([n for n, entry in level.in_order() if self._abandoned(entry.work)])
        if level.is_full():
            raise Overloaded(
                f"{len(level)} requests wait for the model, which is its limit",
                retry_after_ms=RETRY_AFTER_MS,
            )

    def _expire(self, now_ns: int) -> list[Entry[T]]:
        expired = []
        while (key := self._timers.pop_until(now_ns)) is not None:
            number = key[-1]
            level = self._waiting[number]
            entry = level.get(number)
            too_late = entry.deadline_ns is not None and entry.deadline_ns <= now_ns
            if self._abandoned(entry.work):
                self._remove(number)
            elif level.policy.delays_expired and not too_late:
                level.delay(number)
            else:
                expired.append(self._remove(number))
        return expired

    def _choose(self, now_ns: int) -> list[int]:
        pending = self._pending()
        numbers = pending.numbers
        if not numbers:
            return []
        delay_ends_ns = pending.oldest_ns + self._delay_ns
        late = self._delay_ns > 0 and now_ns >= delay_ends_ns
        if pending.best and not late:
            return numbers[: pending.best]
        if late or not self._delay_ns or pending.cannot_grow():
            return numbers
        self._delay_ends_ns = delay_ends_ns
        return []

    def _pending(self) -> _Pending[T]:
        pending: _Pending[T] = _Pending(self._settings)
        abandoned = []
        for number, entry in self._in_order():
            if self._abandoned(entry.work):
                abandoned.append(number)
            elif not pending.offer(number, entry):
                break
        self._drop(abandoned)
        return pending

    def _in_order(self) -> Iterator[tuple[int, Entry[T]]]:
        for number in self._in_use:
            yield from self._levels[number].in_order()

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self._remove(number)

    def _remove(self, number: int) -> Entry[T]:
        return self._waiting.pop(number).remove(number)


class _Level(Generic[T]):
    """The queue of one priority level: those in time, then those that were too long in it."""

    __slots__ = ("delayed", "fresh", "looks", "policy")

    def __init__(self, policy: QueuePolicySettings) -> None:
        self.policy = policy
        self.fresh: OrderedDict[int, Entry[T]] = OrderedDict()
        self.delayed: OrderedDict[int, Entry[T]] = OrderedDict()
        self.looks = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.delayed)

    def is_full(self) -> bool:
        """Tell whether it takes no more."""
        return 0 < self.policy.max_queue_size <= len(self)

    def timeout_ns(self, entry: Entry[T]) -> int | None:
        """Return when the entry will have been in the queue for too long."""
        timeout_us = self.policy.default_timeout_us
        if self.policy.allow_timeout_override and 0 < entry.timeout_us < timeout_us:
            timeout_us = entry.timeout_us
        return entry.enqueued_ns + timeout_us * 1000 if timeout_us else None

    def in_order(self) -> Iterator[tuple[int, Entry[T]]]:
        """Iterate in the order of service."""
        yield from self.fresh.items()
        yield from self.delayed.items()

    def get(self, number: int) -> Entry[T]:
        """Return one that waits."""
        return self.fresh[number] if number in self.fresh else self.delayed[number]

    def delay(self, number: int) -> None:
        """Put one behind all the others."""
        self.delayed[number] = self.fresh.pop(number)

    def remove(self, number: int) -> Entry[T]:
        """Remove and return one."""
        queue = self.fresh if number in self.fresh else self.delayed
        return queue.pop(number)


class _Pending(Generic[T]):
    """A batch in the making: the longest prefix of the queue that can run together."""

    __slots__ = ("best", "closed", "numbers", "oldest_ns", "rows", "settings", "shape")

    def __init__(self, settings: TritonPolicySettings) -> None:
        self.settings = settings
        self.numbers: list[int] = []
        self.rows = 0
        self.shape: Hashable = ()
        self.oldest_ns = 0
        self.best = 0
        """How many of them make the best of the preferred sizes; 0: there is no such size yet."""
        self.closed = False
        """There is a request that could not join."""

    def offer(self, number: int, entry: Entry[T]) -> bool:
        """Take a request in; return whether that was possible."""
        rows = self.rows + max(1, entry.rows)
        if not self.numbers:
            self.shape, self.oldest_ns = entry.shape, entry.enqueued_ns
        else:
            if rows > self.settings.max_preferred_batch_size and not self.best:
                self.best = len(self.numbers)
            if rows > self.settings.max_batch_size or entry.shape != self.shape:
                self.closed = True
                return False
        self.numbers.append(number)
        self.rows = rows
        self.oldest_ns = min(self.oldest_ns, entry.enqueued_ns)
        if rows in self.settings.preferred_batch_sizes:
            self.best = len(self.numbers)
        return True

    def cannot_grow(self) -> bool:
        """Tell whether no more requests can make it a preferred size."""
        return self.closed or self.rows >= self.settings.max_preferred_batch_size

"""Batches for encoders: as many sequences in a run as their lengths let.

Owns the order of service and the token budget of a run. Sans I/O, as every policy.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeAlias

from vecserve_server.scheduling.policies.live_heap import LiveHeap
from vecserve_server.scheduling.policies.policy import Batch, Entry, T

Choose: TypeAlias = Callable[[Sequence[int]], Sequence[int]]
"""Of sequences of these lengths, the numbers of those that the first should run with, and 0."""

_NEVER_NS = 1 << 63
_EXPIRY_STEP_NS = 1 << 26


class EncoderPolicy(Generic[T]):
    """Fill a run up to a token budget, by priority, then deadline, then arrival.

    An entry that does not fit is passed over and keeps its place; a run passes over at most
    `look_ahead_entries`. Nothing starves: among `max_passes` + 1 runs in a row there is one that
    has the entry that is the oldest. When several instances are free the waiting tokens are
    shared out, down to `min_share_tokens`, below which splitting costs more per run than it saves.
    When there is more than enough for all of them, `choose` picks from the first
    `look_ahead_entries` the company in which the most urgent one leaves the least padding; where
    it fails, the run is filled in order: what is wrong with an entry shows when it runs.
    Never waits for company.
    """

    def __init__(
        self,
        *,
        run_tokens: int,
        min_share_tokens: int,
        look_ahead_entries: int,
        abandoned: Callable[[T], bool],
        choose: Choose | None = None,
        max_passes: int = 16,
        default_priority: int = 2,
    ) -> None:
        self._run_tokens = run_tokens
        self._min_share_tokens = min_share_tokens
        self._look_ahead_entries = look_ahead_entries
        self._abandoned = abandoned
        self._choose = choose
        self._max_passes = max_passes
        self._default_priority = default_priority
        # By number, which is the order of arrival; whoever is not in it is not in the heaps.
        self._waiting: OrderedDict[int, Entry[T]] = OrderedDict()
        self._order = LiveHeap(self._waiting)
        self._expiries = LiveHeap(self._waiting)
        self._next_number = 0
        self._queued_tokens = 0
        # By priority and time of expiry, in steps that keep the keys few.
        self._tokens_by_urgency: Counter[tuple[int, int]] = Counter()
        self._passes = 0

    def __len__(self) -> int:
        """Entries that wait."""
        return len(self._waiting)

    def add(self, entry: Entry[T]) -> None:
        """Append an entry."""
        number = self._next_number
        self._next_number += 1
        self._waiting[number] = entry
        self._queued_tokens += entry.tokens
        expires_ns = _expires_ns(entry)
        self._tokens_by_urgency[self._urgency_step(entry.priority, expires_ns)] += entry.tokens
        self._order.push((entry.priority or self._default_priority, expires_ns, number))
        if expires_ns < _NEVER_NS:
            self._expiries.push((expires_ns, number))

    def form(self, *, now_ns: int, free_instances: int) -> Batch[T]:
        """Take the most urgent entry, or the oldest where it is due, and what fits beside it."""
        expired = self._expire(now_ns)
        return Batch(entries=self._take(free_instances), expired=expired)

    def wake_ns(self, now_ns: int) -> int | None:  # noqa: ARG002 - the interface's
        """Return when the next entry expires."""
        key = self._expiries.peek()
        return None if key is None else key[0]

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait."""
        return self._queued_tokens

    def tokens_ahead(self, priority: int, expires_ns: int) -> int:
        """Tell what waits with a higher priority, or the same one and no later expiry."""
        last = self._urgency_step(priority, expires_ns)
        return sum(tokens for each, tokens in self._tokens_by_urgency.items() if each <= last)

    def clear(self) -> list[Entry[T]]:
        """Remove and return everything."""
        entries = list(self._waiting.values())
        self._waiting.clear()
        self._queued_tokens = 0
        self._tokens_by_urgency.clear()
        return entries

    def _expire(self, now_ns: int) -> list[Entry[T]]:
        expired = []
        while (key := self._expiries.pop_until(now_ns)) is not None:
            entry = self._remove(key[-1])
            if not self._abandoned(entry.work):
                expired.append(entry)
        return expired

    def _take(self, free_instances: int) -> list[Entry[T]]:
        if free_instances < 1:
            return []
        oldest = self._oldest()
        due = oldest if self._passes >= self._max_passes else None
        taken: list[Entry[T]] | None = None
        if self._choose is not None and self._queued_tokens >= free_instances * self._run_tokens:
            taken = self._chosen(self._choose, due)
        if taken is None:
            taken = self._fill(self._budget(free_instances), due)
        self._passes = self._passes + 1 if oldest in self._waiting else 0
        return taken

    def _chosen(self, choose: Choose, due: int | None) -> list[Entry[T]] | None:
        """Take the company that `choose` picks; None where it picks none."""
        keys: list[tuple[int, ...]] = []
        while len(keys) < self._look_ahead_entries and (key := self._order.pop()) is not None:
            if self._abandoned(self._waiting[key[-1]].work):
                self._remove(key[-1])
            elif key[-1] != due:
                keys.append(key)
        numbers = [key[-1] for key in keys]
        if due is not None:
            numbers.insert(0, due)
        picked = self._picked(choose, numbers)
        taken = [self._remove(number) for number in picked]
        for key in keys:
            if key[-1] in self._waiting:
                self._order.push(key)
        return taken or None

    def _picked(self, choose: Choose, numbers: Sequence[int]) -> Iterable[int]:
        if not numbers:
            return ()
        try:
            indices = choose([self._waiting[number].tokens for number in numbers])
            return dict.fromkeys(numbers[index] for index in indices)
        except Exception:  # noqa: BLE001 - a choice that cannot be made must not lose entries
            return ()

    def _fill(self, room: int, due: int | None) -> list[Entry[T]]:
        taken: list[Entry[T]] = []
        if due is not None:
            taken.append(self._remove(due))
            room -= taken[0].tokens
        passed_over = []
        while (room > 0 or not taken) and (key := self._order.pop()) is not None:
            entry = self._waiting[key[-1]]
            if self._abandoned(entry.work):
                self._remove(key[-1])
            elif not taken or entry.tokens <= room:
                taken.append(self._remove(key[-1]))
                room -= entry.tokens
            else:
                passed_over.append(key)
                if len(passed_over) >= self._look_ahead_entries:
                    break
        for key in passed_over:
            self._order.push(key)
        return taken

    def _oldest(self) -> int | None:
        while self._waiting:
            number, entry = next(iter(self._waiting.items()))
            if not self._abandoned(entry.work):
                return number
            self._remove(number)
        return None

    def _budget(self, free_instances: int) -> int:
        share = -(-self._queued_tokens // free_instances)
        return min(self._run_tokens, max(self._min_share_tokens, share))

    def _remove(self, number: int) -> Entry[T]:
        entry = self._waiting.pop(number)
        self._queued_tokens -= entry.tokens
        step = self._urgency_step(entry.priority, _expires_ns(entry))
        self._tokens_by_urgency[step] -= entry.tokens
        if not self._tokens_by_urgency[step]:
            del self._tokens_by_urgency[step]
        return entry

    def _urgency_step(self, priority: int, expires_ns: int) -> tuple[int, int]:
        return priority or self._default_priority, expires_ns // _EXPIRY_STEP_NS


def _expires_ns(entry: Entry[T]) -> int:
    deadline_ns = _NEVER_NS if entry.deadline_ns is None else entry.deadline_ns
    if not entry.timeout_us:
        return deadline_ns
    return min(deadline_ns, entry.enqueued_ns + entry.timeout_us * 1000)

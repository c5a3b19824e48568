"""A plain transcription of how Triton's dynamic batcher forms a batch, for tests to compare with.

Owns lists and loops: no order is kept that a sort can make anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vecserve_server.scheduling.policies.policy import Entry
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)

NEVER_NS = 1 << 62


@dataclass(eq=False)
class Work:
    number: int
    abandoned: bool = False


@dataclass(eq=False)
class Waiting:
    entry: Entry[Work]
    level: int
    queue: QueuePolicySettings
    delayed_since: int | None = None

    @property
    def timeout_ns(self) -> int:
        timeout_us = self.queue.default_timeout_us
        wanted_us = self.entry.timeout_us
        if self.queue.allow_timeout_override and wanted_us and wanted_us < timeout_us:
            timeout_us = wanted_us
        return self.entry.enqueued_ns + timeout_us * 1000 if timeout_us else NEVER_NS

    @property
    def deadline_ns(self) -> int:
        return NEVER_NS if self.entry.deadline_ns is None else self.entry.deadline_ns

    @property
    def expires_ns(self) -> int:
        if self.queue.delays_expired:
            return self.deadline_ns
        return min(self.timeout_ns, self.deadline_ns)

    @property
    def place(self) -> tuple[int, int, int, int]:
        number = self.entry.work.number
        if self.delayed_since is None:
            return (self.level, 0, 0, number)
        return (self.level, 1, self.delayed_since, number)


@dataclass
class TritonModel:
    settings: TritonPolicySettings
    waiting: list[Waiting] = field(default_factory=list)

    def is_full(self, priority: int) -> bool:
        level = self.level(priority)
        limit = self.settings.queue_policy(level).max_queue_size
        return limit != 0 and sum(w.level == level for w in self.waiting) >= limit

    def level(self, priority: int) -> int:
        levels = self.settings.priority_levels
        if priority == 0 or priority > levels:
            return self.settings.default_priority_level
        return priority

    def add(self, entry: Entry[Work]) -> None:
        level = self.level(entry.priority)
        queue = self.settings.queue_policy(level)
        self.waiting.append(Waiting(entry=entry, level=level, queue=queue))

    def expire(self, now_ns: int) -> list[Entry[Work]]:
        """Take out what has expired; put what was too long in its queue behind the others."""
        gone = [w for w in self.waiting if w.expires_ns <= now_ns]
        self.waiting = [w for w in self.waiting if w not in gone]
        for waiting in self.waiting:
            if waiting.timeout_ns <= now_ns:
                waiting.delayed_since = waiting.timeout_ns
        return [w.entry for w in gone]

    def dynamic_batch(self, now_ns: int) -> tuple[list[Entry[Work]], int]:
        """Take out the next batch; else nothing, and when the queue delay is over."""
        queue = sorted(self.waiting, key=lambda w: w.place)
        count, ends_ns = self.decide([w.entry for w in queue], now_ns)
        self.waiting = [w for w in self.waiting if w not in queue[:count]]
        return [w.entry for w in queue[:count]], ends_ns

    def decide(self, queue: list[Entry[Work]], now_ns: int) -> tuple[int, int]:
        preferred = self.settings.preferred_batch_sizes
        max_preferred = max(preferred, default=0)
        delay_ns = self.settings.max_queue_delay_us * 1000
        pending_rows, cursor, best, mark, send_now = 0, 0, 0, 0, False
        while cursor < len(queue):
            request = queue[cursor]
            rows = max(1, request.rows)
            if cursor > 0:
                if pending_rows + rows > max_preferred and best == 0:
                    best, mark = pending_rows, cursor
                too_many = pending_rows + rows > self.settings.max_batch_size
                if too_many or request.shape != queue[0].shape:
                    send_now = True
                    break
            pending_rows += rows
            cursor += 1
            if pending_rows in preferred:
                best, mark = pending_rows, cursor
        if cursor == 0:
            return 0, NEVER_NS
        oldest_ns = min(request.enqueued_ns for request in queue[:cursor])
        late = delay_ns != 0 and now_ns - oldest_ns >= delay_ns
        if best and not late:
            return mark, NEVER_NS
        if send_now or pending_rows >= max_preferred or late or delay_ns == 0:
            return cursor, NEVER_NS
        return 0, oldest_ns + delay_ns

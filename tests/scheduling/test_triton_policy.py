"""Triton's rules one by one, with hand-fed time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.scheduling.triton_model import Work
from vecserve_server.errors import Overloaded
from vecserve_server.scheduling.policies.policy import Entry
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)


class Queue:
    """A policy with hand-fed time, for examples."""

    def __init__(self, settings: TritonPolicySettings) -> None:
        self.policy: TritonPolicy[Work] = TritonPolicy(
            settings=settings, abandoned=lambda work: work.abandoned
        )
        self.works: list[Work] = []

    def add(
        self,
        *,
        at_us: int = 0,
        rows: int = 1,
        priority: int = 0,
        timeout_us: int = 0,
        shape: tuple[int, ...] = (),
    ) -> None:
        self.works.append(Work(len(self.works)))
        self.policy.add(
            Entry(
                work=self.works[-1],
                tokens=1,
                enqueued_ns=at_us * 1000,
                deadline_ns=None,
                rows=rows,
                priority=priority,
                timeout_us=timeout_us,
                shape=shape,
            )
        )

    def add_many(self, count: int, *, at_us: int = 0) -> None:
        for _ in range(count):
            self.add(at_us=at_us)

    def run(self, *, at_us: int = 0) -> list[int]:
        return numbers(self.policy.form(now_ns=at_us * 1000, free_instances=1).entries)

    def expired(self, *, at_us: int) -> list[int]:
        return numbers(self.policy.form(now_ns=at_us * 1000, free_instances=0).expired)


def numbers(entries: Sequence[Entry[Work]]) -> list[int]:
    return [entry.work.number for entry in entries]


def make(*preferred: int, most: int = 8, delay_us: int = 0) -> TritonPolicySettings:
    return TritonPolicySettings(
        max_batch_size=most,
        preferred_batch_sizes=preferred or (most,),
        max_queue_delay_us=delay_us,
    )


def test_without_a_delay_a_batch_is_all_that_waits() -> None:
    queue = Queue(make())
    queue.add_many(11)
    assert [queue.run(), queue.run()] == [list(range(8)), [8, 9, 10]]


def test_without_dynamic_batching_every_request_runs_alone() -> None:
    queue = Queue(TritonPolicySettings(max_batch_size=8))
    queue.add(rows=3)
    queue.add()
    assert [queue.run(), queue.run(), queue.run()] == [[0], [1], []]


def test_the_largest_preferred_size_that_can_be_had_is_taken_at_once() -> None:
    queue = Queue(make(2, 4, delay_us=100))
    queue.add_many(7)
    assert [queue.run(), queue.run(), queue.run()] == [[0, 1, 2, 3], [4, 5], []]


def test_less_than_a_preferred_size_waits_for_the_delay_of_its_oldest() -> None:
    queue = Queue(make(4, delay_us=100))
    queue.add_many(2)
    queue.add(at_us=60)
    assert queue.run(at_us=60) == []
    assert queue.policy.wake_ns(60_000) == 100_000
    assert queue.run(at_us=99) == []
    assert queue.run(at_us=100) == [0, 1, 2]


def test_after_the_delay_a_batch_is_as_large_as_can_be() -> None:
    queue = Queue(make(2, delay_us=100))
    queue.add_many(7)
    assert queue.run(at_us=100) == [0, 1, 2, 3, 4, 5, 6]


def test_rows_that_skip_every_preferred_size_run_without_the_one_too_many() -> None:
    queue = Queue(make(4, delay_us=100))
    for _ in range(3):
        queue.add(rows=3)
    assert queue.run() == [0]


def test_another_shape_ends_a_batch_and_none_is_pulled_forward() -> None:
    queue = Queue(make(delay_us=100))
    for shape in ((1,), (1,), (2,), (1,)):
        queue.add(shape=shape)
    assert [queue.run(), queue.run(), queue.run()] == [[0, 1], [2], []]
    assert queue.run(at_us=100) == [3]


def test_a_request_above_every_preferred_size_waits_for_nothing() -> None:
    queue = Queue(make(2, delay_us=100))
    queue.add(rows=3)
    assert queue.run() == [0]


def test_a_lone_request_waits_for_the_delay_and_without_one_not_at_all() -> None:
    queue = Queue(make(delay_us=100))
    queue.add(at_us=1000)
    assert queue.run(at_us=1000) == []
    assert queue.run(at_us=1099) == []
    assert queue.run(at_us=1100) == [0]

    impatient = Queue(make(delay_us=0))
    impatient.add(at_us=1000)
    assert impatient.run(at_us=1000) == [0]


def test_a_burst_after_a_pause_makes_one_full_batch_that_waits_for_nothing() -> None:
    queue = Queue(make(delay_us=100_000))
    ran = []
    for number in range(8):
        queue.add(at_us=1_000_000 + number)
        ran.append(queue.run(at_us=1_000_000 + number))
    assert ran == [[]] * 7 + [list(range(8))]


def level_settings(
    default: QueuePolicySettings, *, own: dict[int, QueuePolicySettings] | None = None
) -> TritonPolicySettings:
    return TritonPolicySettings(
        max_batch_size=8,
        preferred_batch_sizes=(8,),
        priority_levels=3,
        default_priority_level=2,
        default_queue_policy=default,
        queue_policies=own or {},
    )


def test_levels_are_served_in_order_and_unknown_ones_are_the_default() -> None:
    queue = Queue(level_settings(QueuePolicySettings()))
    for priority in (3, 0, 1, 9, 2, 1):
        queue.add(priority=priority)
    assert queue.run() == [2, 5, 1, 3, 4, 0]


def test_the_delay_is_that_of_the_oldest_whatever_its_level() -> None:
    queue = Queue(
        TritonPolicySettings(
            max_batch_size=8,
            preferred_batch_sizes=(8,),
            max_queue_delay_us=100,
            priority_levels=2,
            default_priority_level=2,
        )
    )
    queue.add(priority=2)
    queue.add(priority=1, at_us=50)
    assert queue.run(at_us=99) == []
    assert queue.run(at_us=100) == [1, 0]


def test_what_waited_too_long_is_refused_on_time_although_nothing_is_free() -> None:
    queue = Queue(level_settings(QueuePolicySettings(default_timeout_us=50)))
    queue.add_many(2)
    queue.add(at_us=10)
    assert queue.policy.wake_ns(0) == 50_000
    assert queue.expired(at_us=49) == []
    assert queue.expired(at_us=50) == [0, 1]
    assert queue.policy.wake_ns(50_000) == 60_000


def test_what_waited_too_long_is_served_last_in_its_level_where_it_is_delayed() -> None:
    delays = QueuePolicySettings(
        delays_expired=True, default_timeout_us=50, allow_timeout_override=True
    )
    queue = Queue(level_settings(delays))
    queue.add()
    queue.add(timeout_us=20)
    queue.add(at_us=40)
    queue.add(at_us=40, priority=3)
    assert queue.run(at_us=60) == [2, 1, 0, 3]


def test_a_request_can_only_shorten_a_timeout_and_only_where_there_is_one() -> None:
    settings = level_settings(
        QueuePolicySettings(default_timeout_us=50, allow_timeout_override=True),
        own={
            1: QueuePolicySettings(default_timeout_us=50),
            3: QueuePolicySettings(allow_timeout_override=True),
        },
    )
    queue = Queue(settings)
    for priority, timeout_us in ((2, 20), (2, 80), (1, 20), (3, 20)):
        queue.add(priority=priority, timeout_us=timeout_us)
    assert queue.expired(at_us=20) == [0]
    assert queue.expired(at_us=50) == [1, 2]
    assert queue.expired(at_us=1000) == []


def test_each_level_has_its_own_limit_in_requests() -> None:
    queue = Queue(
        level_settings(QueuePolicySettings(), own={1: QueuePolicySettings(max_queue_size=2)})
    )
    for _ in range(2):
        queue.add(priority=1, rows=4)
    with pytest.raises(Overloaded, match="2 requests wait"):
        queue.add(priority=1)
    queue.add(priority=2)
    queue.run()
    queue.add(priority=1)


def test_the_abandoned_leave_when_they_are_met() -> None:
    queue = Queue(make(4))
    queue.add_many(5)
    for work in queue.works[:3]:
        work.abandoned = True
    assert queue.run() == [3, 4]
    assert len(queue.policy) == 0


def long_queue(abandoned: Callable[[Work], bool]) -> TritonPolicy[Work]:
    """A thousand requests, and no more."""
    limited = QueuePolicySettings(max_queue_size=1000)
    policy = TritonPolicy(
        settings=TritonPolicySettings(
            max_batch_size=4, preferred_batch_sizes=(4,), default_queue_policy=limited
        ),
        abandoned=abandoned,
    )
    for count in range(1000):
        policy.add(waiting(count))
    return policy


def waiting(count: int) -> Entry[Work]:
    return Entry(work=Work(count), tokens=1, enqueued_ns=0, deadline_ns=10**9 + count)


def test_the_abandoned_take_nobody_s_place() -> None:
    policy = long_queue(lambda work: work.number < 500)
    refusals = 0
    while len(policy) != 501:
        try:
            policy.add(waiting(1000))
        except Overloaded:
            refusals += 1
        assert refusals < 20
    assert numbers(policy.form(now_ns=0, free_instances=1).entries) == [500, 501, 502, 503]


def test_a_long_queue_makes_neither_forming_nor_refusing_slow() -> None:
    looks = 0

    def abandoned(_: Work) -> bool:
        nonlocal looks
        looks += 1
        return False

    policy = long_queue(abandoned)
    for _ in range(100):
        with pytest.raises(Overloaded):
            policy.add(waiting(1000))
    assert looks <= 100 * 64
    looks = 0
    assert numbers(policy.form(now_ns=0, free_instances=1).entries) == [0, 1, 2, 3]
    assert looks <= 8

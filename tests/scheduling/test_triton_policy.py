"""Triton's policy, compared with a transcription of Triton's rules at any interleaving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.scheduling.triton_model import NEVER_NS, TritonModel, Work
from vecserve_server.errors import Overloaded
from vecserve_server.scheduling.policy import Entry
from vecserve_server.scheduling.triton_policy import TritonPolicy
from vecserve_server.scheduling.triton_settings import QueuePolicySettings, TritonPolicySettings

queue_policies = st.builds(
    QueuePolicySettings,
    delays_expired=st.booleans(),
    default_timeout_us=st.sampled_from([0, 0, 2, 5]),
    allow_timeout_override=st.booleans(),
    max_queue_size=st.sampled_from([0, 0, 0, 3]),
)


@st.composite
def policy_settings(draw: st.DrawFn) -> TritonPolicySettings:
    most = draw(st.integers(0, 8))
    sizes = st.sets(st.integers(1, most), min_size=1, max_size=3) if most else st.just(set())
    levels = draw(st.sampled_from([0, 0, 1, 3]))
    own = st.dictionaries(st.integers(1, levels), queue_policies) if levels else st.just({})
    return TritonPolicySettings(
        max_batch_size=most,
        preferred_batch_sizes=tuple(sorted(draw(sizes | st.just({most} - {0})))),
        max_queue_delay_us=draw(st.sampled_from([0, 1, 4])),
        priority_levels=levels,
        default_priority_level=draw(st.integers(1, levels)) if levels else 0,
        default_queue_policy=draw(queue_policies),
        queue_policies=draw(own),
    )


class PolicyMachine(RuleBasedStateMachine):
    """Any interleaving of arrivals, cancellations, time and forming."""

    @initialize(settings=policy_settings(), lone_waits=st.booleans())
    def start(self, settings: TritonPolicySettings, lone_waits: bool) -> None:
        self.policy: TritonPolicy[Work] = TritonPolicy(
            settings=settings, abandoned=lambda work: work.abandoned, lone_waits=lone_waits
        )
        self.model = TritonModel(settings, lone_waits)
        self.most = settings.max_batch_size
        self.now_ns = 0
        self.count = 0
        self.ran: list[Entry[Work]] = []

    @rule(
        rows=st.sampled_from([0, 1, 1, 1, 2, 3]),
        priority=st.integers(0, 4),
        timeout_us=st.integers(0, 6),
        patience_ns=st.sampled_from([None, None, 500, 3000, 6000]),
        shape=st.sampled_from([(), (), (), (4,)]),
    )
    def arrive(
        self,
        rows: int,
        priority: int,
        timeout_us: int,
        patience_ns: int | None,
        shape: tuple[int, ...],
    ) -> None:
        arrived = Entry(
            work=Work(self.count),
            tokens=1,
            enqueued_ns=self.now_ns,
            deadline_ns=None if patience_ns is None else self.now_ns + patience_ns,
            rows=min(rows, max(1, self.most)),
            priority=priority,
            timeout_us=timeout_us,
            shape=shape,
        )
        if self.model.is_full(priority):
            with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
                self.policy.add(arrived)
            return
        self.count += 1
        self.policy.add(arrived)
        self.model.add(arrived)

    @precondition(lambda self: self.model.waiting)
    @rule(which=st.integers(0, 1000))
    def abandon(self, which: int) -> None:
        self.model.waiting.pop(which % len(self.model.waiting)).entry.work.abandoned = True

    @rule(passed_ns=st.sampled_from([1, 500, 1000, 2500]))
    def wait(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @rule()
    def sleep_as_told(self) -> None:
        self.form(0)
        wake_ns = self.policy.wake_ns(self.now_ns)
        self.now_ns = self.now_ns if wake_ns is None else wake_ns

    @rule(free_instances=st.sampled_from([0, 1, 1, 1, 3]))
    def form(self, free_instances: int) -> None:
        batch = self.policy.form(now_ns=self.now_ns, free_instances=free_instances)
        expired = self.model.expire(self.now_ns)
        assert sorted(batch.expired, key=number) == sorted(expired, key=number)
        entries: list[Entry[Work]] = []
        ends_ns = NEVER_NS
        if free_instances:
            entries, ends_ns = self.model.dynamic_batch(self.now_ns)
        assert list(batch.entries) == entries
        self.check_wake(ends_ns)

    def check_wake(self, ends_ns: int) -> None:
        needed_ns = min((w.expires_ns for w in self.model.waiting), default=NEVER_NS)
        needed_ns = min(needed_ns, ends_ns)
        wake_ns = self.policy.wake_ns(self.now_ns)
        assert wake_ns is None or wake_ns > self.now_ns, "who sleeps as told never spins"
        if needed_ns < NEVER_NS:
            assert wake_ns is not None
            assert wake_ns <= needed_ns

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "model"):
            assert len(self.model.waiting) <= len(self.policy) <= self.count

    def teardown(self) -> None:
        left = [e for e in self.policy.clear() if not e.work.abandoned]
        assert left == [w.entry for w in self.model.waiting]
        assert len(self.policy) == 0
        assert self.policy.wake_ns(self.now_ns) is None


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = examples(max_examples=100, stateful_step_count=50, deadline=None)


def number(waiting: Entry[Work]) -> int:
    return waiting.work.number


class Queue:
    """A policy with hand-fed time, for examples."""

    def __init__(self, settings: TritonPolicySettings, *, lone_waits: bool = False) -> None:
        self.policy: TritonPolicy[Work] = TritonPolicy(
            settings=settings, abandoned=lambda work: work.abandoned, lone_waits=lone_waits
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
    return [number(entry) for entry in entries]


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
    queue = Queue(make(2, delay_us=100), lone_waits=True)
    queue.add(rows=3)
    assert queue.run() == [0]


def test_a_lone_request_waits_for_no_company_unless_told_to() -> None:
    queue = Queue(make(delay_us=100))
    queue.add(at_us=1000)
    assert queue.run(at_us=1000) == [0]
    queue.add(at_us=1050)
    assert queue.run(at_us=1050) == [], "it is not alone: company came a moment ago"
    assert queue.run(at_us=1150) == [1]
    queue.add(at_us=1150)
    assert queue.run(at_us=1150) == [2], "nothing has come for as long as the delay"

    patient = Queue(make(delay_us=100), lone_waits=True)
    patient.add(at_us=1000)
    assert patient.run(at_us=1000) == []
    assert patient.run(at_us=1100) == [0]


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
    with pytest.raises(Overloaded, match="Exceeds maximum queue size"):
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

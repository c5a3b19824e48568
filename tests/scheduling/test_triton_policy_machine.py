"""Triton's policy, compared with a transcription of Triton's rules at any interleaving."""

from __future__ import annotations

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
from vecserve_server.scheduling.policies.policy import Entry
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)

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

    @initialize(settings=policy_settings())
    def start(self, settings: TritonPolicySettings) -> None:
        self.policy: TritonPolicy[Work] = TritonPolicy(
            settings=settings, abandoned=lambda work: work.abandoned
        )
        self.model = TritonModel(settings)
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
            with pytest.raises(Overloaded, match="which is its limit"):
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

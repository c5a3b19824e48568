"""Both policies as a batcher drives them: on arrival, on a free instance, when they ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.policies.hold_policy import HoldPolicy
from vecserve_server.scheduling.policies.policy import BatchPolicy, Entry
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)

DELAY_US = 3
LONGEST_US = 1_000_000
MANY_STEPS = 10_000


@dataclass
class Simulation:
    """One server: virtual time, instances that are busy for a while, and a policy."""

    policy: BatchPolicy[int]
    service_ns: int
    free: int
    now_ns: int = 0
    busy_until_ns: list[int] = field(default_factory=list)
    started_ns: dict[int, int] = field(default_factory=dict)
    expired_ns: dict[int, int] = field(default_factory=dict)

    def run(self, arrivals: Sequence[Entry[int]]) -> None:
        coming = list(arrivals)
        for _ in range(MANY_STEPS):
            times = [*self.busy_until_ns, *(e.enqueued_ns for e in coming[:1])]
            wake_ns = self.policy.wake_ns(self.now_ns)
            times += [] if wake_ns is None else [wake_ns]
            if not times:
                return
            assert min(times) >= self.now_ns
            self.now_ns = min(times)
            done = [t for t in self.busy_until_ns if t <= self.now_ns]
            self.busy_until_ns = [t for t in self.busy_until_ns if t > self.now_ns]
            self.free += len(done)
            while coming and coming[0].enqueued_ns <= self.now_ns:
                self.policy.add(coming.pop(0))
            self.dispatch()
        raise AssertionError("it never comes to rest")

    def dispatch(self) -> None:
        while True:
            batch = self.policy.form(now_ns=self.now_ns, free_instances=self.free)
            for entry in batch.expired:
                assert entry.work not in self.expired_ns
                self.expired_ns[entry.work] = self.now_ns
            if not batch.entries:
                return
            self.free -= 1
            self.busy_until_ns.append(self.now_ns + self.service_ns)
            for entry in batch.entries:
                assert entry.work not in self.started_ns
                self.started_ns[entry.work] = self.now_ns


def never(_: int) -> bool:
    return False


def encoder() -> BatchPolicy[int]:
    return EncoderPolicy(
        run_tokens=64, min_share_tokens=16, look_ahead_entries=4, abandoned=never, max_passes=2
    )


def triton() -> BatchPolicy[int]:
    made = TritonPolicySettings(
        max_batch_size=8,
        preferred_batch_sizes=(2, 8),
        max_queue_delay_us=DELAY_US,
        priority_levels=2,
        default_priority_level=2,
        default_queue_policy=QueuePolicySettings(
            default_timeout_us=LONGEST_US, allow_timeout_override=True
        ),
    )
    return TritonPolicy(settings=made, abandoned=never)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Entry[int]]:
    at_ns = 0
    entries = []
    for work in range(draw(st.integers(1, 40))):
        at_ns += draw(st.sampled_from([0, 0, 700, 5000]))
        patience_ns = draw(st.sampled_from([None, None, 2500, 9000]))
        entries.append(
            Entry(
                work=work,
                tokens=draw(st.integers(1, 80)),
                enqueued_ns=at_ns,
                deadline_ns=None if patience_ns is None else at_ns + patience_ns,
                priority=draw(st.integers(0, 3)),
                timeout_us=draw(st.sampled_from([0, 0, 4])),
            )
        )
    return entries


def expires_ns(entry: Entry[int]) -> int | None:
    ends = [] if entry.deadline_ns is None else [entry.deadline_ns]
    ends += [entry.enqueued_ns + entry.timeout_us * 1000] if entry.timeout_us else []
    return min(ends, default=None)


@pytest.mark.parametrize("make_policy", [encoder, triton], ids=["encoder", "triton"])
@settings(max_examples=50, deadline=None)
@given(
    coming=arrivals(),
    service_ns=st.integers(1, 20_000),
    instances=st.integers(1, 3),
    hold=st.sampled_from([0, 0, 3]),
)
def test_every_request_starts_or_expires_on_time(
    make_policy: type[BatchPolicy[int]],
    coming: list[Entry[int]],
    service_ns: int,
    instances: int,
    hold: int,
) -> None:
    policy = HoldPolicy(make_policy(), hold=hold)
    server = Simulation(policy=policy, service_ns=service_ns, free=instances)
    server.run(coming)

    for entry in coming:
        if entry.work in server.expired_ns:
            assert entry.work not in server.started_ns
            queue_ns = entry.enqueued_ns + LONGEST_US * 1000
            assert server.expired_ns[entry.work] == (expires_ns(entry) or queue_ns)
        elif entry.work in server.started_ns:
            end_ns = expires_ns(entry)
            assert end_ns is None or server.started_ns[entry.work] < end_ns
    gone = {*server.expired_ns, *server.started_ns}
    held = {entry.work for entry in policy.clear()}
    assert gone | held == {entry.work for entry in coming}
    assert not gone & held
    assert not held or hold, "without a hold nothing is left"


@settings(max_examples=50, deadline=None)
@given(coming=arrivals())
def test_with_enough_instances_the_queue_delay_is_the_longest_wait(
    coming: list[Entry[int]],
) -> None:
    server = Simulation(policy=triton(), service_ns=1, free=len(coming))
    server.run(coming)
    for entry in coming:
        if entry.work in server.started_ns:
            assert server.started_ns[entry.work] - entry.enqueued_ns <= DELAY_US * 1000


@settings(max_examples=50, deadline=None)
@given(coming=arrivals())
def test_with_enough_instances_an_encoder_s_entry_never_waits(coming: list[Entry[int]]) -> None:
    server = Simulation(policy=encoder(), service_ns=1, free=len(coming))
    server.run(coming)
    assert server.started_ns == {entry.work: entry.enqueued_ns for entry in coming}

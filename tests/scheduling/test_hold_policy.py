"""The hold on a queue, over either policy."""

from __future__ import annotations

import pytest

from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.policies.hold_policy import HoldPolicy
from vecserve_server.scheduling.policies.policy import BatchPolicy, Entry
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import TritonPolicySettings


def never(_: int) -> bool:
    return False


def encoder() -> BatchPolicy[int]:
    return EncoderPolicy(
        run_tokens=100, min_share_tokens=100, look_ahead_entries=8, abandoned=never
    )


def triton() -> BatchPolicy[int]:
    settings = TritonPolicySettings(max_batch_size=4, preferred_batch_sizes=(4,))
    return TritonPolicy(settings=settings, abandoned=never)


@pytest.fixture(params=[encoder, triton])
def policy(request: pytest.FixtureRequest) -> BatchPolicy[int]:
    made: BatchPolicy[int] = request.param()
    return made


def entry(work: int, *, deadline_ns: int | None = None) -> Entry[int]:
    return Entry(work=work, tokens=10, enqueued_ns=0, deadline_ns=deadline_ns)


def form(policy: BatchPolicy[int], *, now_ns: int = 0) -> tuple[list[int], list[int]]:
    batch = policy.form(now_ns=now_ns, free_instances=1)
    return [e.work for e in batch.entries], [e.work for e in batch.expired]


def test_nothing_runs_until_enough_have_waited_at_once(policy: BatchPolicy[int]) -> None:
    held = HoldPolicy(policy, hold=3)
    for work in (0, 1):
        held.add(entry(work))
        assert form(held) == ([], [])
    held.add(entry(2))
    assert form(held) == ([0, 1, 2], [])
    held.add(entry(3))
    assert form(held) == ([3], []), "the hold is over for good"


def test_what_expires_meanwhile_is_given_and_counts_no_more(policy: BatchPolicy[int]) -> None:
    held = HoldPolicy(policy, hold=2)
    held.add(entry(0, deadline_ns=5))
    assert held.wake_ns(0) == 5
    assert form(held, now_ns=5) == ([], [0])
    held.add(entry(1))
    assert form(held, now_ns=6) == ([], [])
    held.add(entry(2))
    assert form(held, now_ns=7) == ([1, 2], [])


def test_no_hold_changes_nothing(policy: BatchPolicy[int]) -> None:
    held = HoldPolicy(policy, hold=0)
    held.add(entry(0))
    assert form(held) == ([0], [])


def test_clearing_gives_what_is_held(policy: BatchPolicy[int]) -> None:
    held = HoldPolicy(policy, hold=5)
    held.add(entry(0))
    held.add(entry(1))
    assert [e.work for e in held.clear()] == [0, 1]
    assert len(held) == 0

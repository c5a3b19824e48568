"""The encoder policy, driven by hand-fed time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vecserve_server.scheduling.policy import EncoderPolicy, Entry

RUN_TOKENS = 256
MIN_SHARE_TOKENS = 64
LOOK_AHEAD = 8


@dataclass(eq=False)
class Work:
    number: int
    abandoned: bool = False


def make_policy() -> EncoderPolicy[Work]:
    return EncoderPolicy(
        run_tokens=RUN_TOKENS,
        min_share_tokens=MIN_SHARE_TOKENS,
        look_ahead_entries=LOOK_AHEAD,
        abandoned=lambda work: work.abandoned,
    )


def entry(number: int, tokens: int, *, deadline_ns: int | None = None) -> Entry[Work]:
    return Entry(work=Work(number), tokens=tokens, enqueued_ns=0, deadline_ns=deadline_ns)


class PolicyMachine(RuleBasedStateMachine):
    """Any interleaving of arrivals, cancellations, time and forming."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = make_policy()
        self.now_ns = 0
        self.waiting: list[Entry[Work]] = []
        self.count = 0

    @rule(tokens=st.integers(1, 300), patience_ns=st.none() | st.integers(0, 50))
    def arrive(self, tokens: int, patience_ns: int | None) -> None:
        deadline_ns = None if patience_ns is None else self.now_ns + patience_ns
        arrived = entry(self.count, tokens, deadline_ns=deadline_ns)
        self.count += 1
        self.policy.add(arrived)
        self.waiting.append(arrived)

    @rule(which=st.integers(0, 1000))
    def abandon(self, which: int) -> None:
        if self.waiting:
            self.waiting[which % len(self.waiting)].work.abandoned = True

    @rule(passed_ns=st.integers(0, 30))
    def wait(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @rule(free_instances=st.integers(1, 4))
    def form(self, free_instances: int) -> None:
        live = [e for e in self.waiting if not e.work.abandoned]
        unexpired = [e for e in live if e.deadline_ns is None or e.deadline_ns > self.now_ns]
        batch = self.policy.form(now_ns=self.now_ns, free_instances=free_instances)

        assert not any(e.work.abandoned for e in batch.entries), "abandoned work never runs"
        assert all(e in unexpired for e in batch.entries), "expired work never runs"
        assert all(e in live and e not in unexpired for e in batch.expired)
        if unexpired:
            assert batch.entries, "a free instance never idles while work waits"
            assert batch.entries[0] is unexpired[0], "the oldest is always served"
        if len(batch.entries) > 1:
            assert sum(e.tokens for e in batch.entries) <= RUN_TOKENS
        numbers = [e.work.number for e in batch.entries]
        assert numbers == sorted(numbers), "entries keep the order of their arrival"
        gone = {*batch.entries, *batch.expired}
        self.waiting = [e for e in self.waiting if e not in gone]

    @invariant()
    def nothing_is_lost(self) -> None:
        live = sum(not e.work.abandoned for e in self.waiting)
        assert live <= len(self.policy) <= len(self.waiting)


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200))
def test_everything_is_served_in_a_bounded_number_of_runs(lengths: list[int]) -> None:
    policy = make_policy()
    for number, tokens in enumerate(lengths):
        policy.add(entry(number, tokens))
    served: list[int] = []
    for _ in lengths:  # each run serves the oldest, so there is at most one for each entry
        batch = policy.form(now_ns=0, free_instances=1)
        served += [e.work.number for e in batch.entries]
    assert sorted(served) == list(range(len(lengths)))
    assert len(policy) == 0


def test_a_lone_entry_runs_at_once() -> None:
    policy = make_policy()
    policy.add(entry(0, 5))
    assert [e.work.number for e in policy.form(now_ns=0, free_instances=2).entries] == [0]


def test_waiting_tokens_are_shared_out_among_free_instances() -> None:
    policy = make_policy()
    for number in range(16):
        policy.add(entry(number, 16))
    first = policy.form(now_ns=0, free_instances=2).entries
    second = policy.form(now_ns=0, free_instances=1).entries
    assert (len(first), len(second)) == (8, 8)


def test_small_work_is_not_split() -> None:
    policy = make_policy()
    for number in range(4):
        policy.add(entry(number, 16))
    assert len(policy.form(now_ns=0, free_instances=2).entries) == 4


def test_what_does_not_fit_is_passed_over_and_keeps_its_place() -> None:
    policy = make_policy()
    for number, tokens in enumerate((200, 100, 50, 150)):
        policy.add(entry(number, tokens))
    assert [e.work.number for e in policy.form(now_ns=0, free_instances=1).entries] == [0, 2]
    assert [e.work.number for e in policy.form(now_ns=0, free_instances=1).entries] == [1, 3]


def test_the_look_ahead_is_bounded() -> None:
    policy = make_policy()
    policy.add(entry(0, 200))
    for number in range(1, LOOK_AHEAD + 1):
        policy.add(entry(number, 100))
    policy.add(entry(99, 1))
    assert [e.work.number for e in policy.form(now_ns=0, free_instances=1).entries] == [0]

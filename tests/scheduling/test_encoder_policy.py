"""The encoder policy, driven by hand-fed time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vecserve_server.scheduling.policies.encoder_policy import Choose, EncoderPolicy
from vecserve_server.scheduling.policies.policy import Entry

RUN_TOKENS = 256
MIN_SHARE_TOKENS = 64
LOOK_AHEAD = 8
MAX_PASSES = 3
DEFAULT_PRIORITY = 2
NEVER_NS = 1 << 62


@dataclass(eq=False)
class Work:
    number: int
    abandoned: bool = False


def make_policy(choose: Choose | None = None) -> EncoderPolicy[Work]:
    return EncoderPolicy(
        run_tokens=RUN_TOKENS,
        min_share_tokens=MIN_SHARE_TOKENS,
        look_ahead_entries=LOOK_AHEAD,
        abandoned=lambda work: work.abandoned,
        choose=choose,
        max_passes=MAX_PASSES,
        default_priority=DEFAULT_PRIORITY,
    )


def entry(
    number: int,
    tokens: int,
    *,
    now_ns: int = 0,
    deadline_ns: int | None = None,
    priority: int = 0,
    timeout_us: int = 0,
) -> Entry[Work]:
    return Entry(
        work=Work(number),
        tokens=tokens,
        enqueued_ns=now_ns,
        deadline_ns=deadline_ns,
        priority=priority,
        timeout_us=timeout_us,
    )


def expires_ns(waiting: Entry[Work]) -> int:
    deadline_ns = NEVER_NS if waiting.deadline_ns is None else waiting.deadline_ns
    timeout_ns = waiting.timeout_us * 1000 or NEVER_NS
    return min(deadline_ns, waiting.enqueued_ns + timeout_ns)


def urgency(waiting: Entry[Work]) -> tuple[int, int, int]:
    return (waiting.priority or DEFAULT_PRIORITY, expires_ns(waiting), waiting.work.number)


def whole_queue_run(waiting: list[Entry[Work]], *, oldest_first: bool) -> list[Entry[Work]]:
    """What the only free instance should run, said as plainly as possible."""
    order = sorted(waiting, key=urgency)
    if oldest_first and waiting:
        order.remove(waiting[0])
        order.insert(0, waiting[0])
    taken, misses = order[:1], 0
    for candidate in order[1:]:
        used = sum(e.tokens for e in taken)
        if used >= RUN_TOKENS or misses == LOOK_AHEAD:
            break
        if used + candidate.tokens <= RUN_TOKENS:
            taken.append(candidate)
        else:
            misses += 1
    return taken


class PolicyMachine(RuleBasedStateMachine):
    """Any interleaving of arrivals, cancellations, time and forming."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = make_policy()
        self.now_ns = 0
        self.waiting: list[Entry[Work]] = []
        self.passes: dict[Entry[Work], int] = {}
        self.runs_without_the_oldest = 0
        self.count = 0

    @rule(
        tokens=st.integers(1, 300),
        patience_ns=st.none() | st.integers(0, 5000),
        timeout_us=st.sampled_from([0, 0, 1, 2, 3]),
        priority=st.integers(0, 3),
    )
    def arrive(self, tokens: int, patience_ns: int | None, timeout_us: int, priority: int) -> None:
        arrived = entry(
            self.count,
            tokens,
            now_ns=self.now_ns,
            deadline_ns=None if patience_ns is None else self.now_ns + patience_ns,
            priority=priority,
            timeout_us=timeout_us,
        )
        self.count += 1
        self.policy.add(arrived)
        self.waiting.append(arrived)

    @rule(numbers=st.lists(st.integers(1, 60), min_size=5, max_size=20))
    def urgent_work_arrives(self, numbers: list[int]) -> None:
        for tokens in numbers:
            self.arrive(tokens, None, 0, 1)

    @rule(which=st.integers(0, 1000))
    def abandon(self, which: int) -> None:
        if self.waiting:
            self.waiting[which % len(self.waiting)].work.abandoned = True

    @rule(passed_ns=st.integers(0, 1500))
    def wait(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @rule(free_instances=st.sampled_from([0, 1, 1, 1, 2, 4]))
    def form(self, free_instances: int) -> None:
        live = [e for e in self.waiting if not e.work.abandoned]
        expired = [e for e in live if expires_ns(e) <= self.now_ns]
        waiting = [e for e in live if expires_ns(e) > self.now_ns]
        batch = self.policy.form(now_ns=self.now_ns, free_instances=free_instances)

        assert list(batch.expired) == sorted(
            expired, key=lambda e: (expires_ns(e), e.work.number)
        ), "what has expired is given at once, and nothing else"
        self.check_run(list(batch.entries), waiting, free_instances)
        gone = {*batch.entries, *batch.expired}
        self.waiting = [e for e in live if e not in gone]
        wake_ns = self.policy.wake_ns(self.now_ns)
        next_ns = min(map(expires_ns, self.waiting), default=NEVER_NS)
        if next_ns < NEVER_NS:
            assert wake_ns is not None
            assert wake_ns <= next_ns
        assert wake_ns is None or wake_ns > self.now_ns, "who sleeps as told never spins"

    def check_run(
        self, taken: list[Entry[Work]], waiting: list[Entry[Work]], free_instances: int
    ) -> None:
        if free_instances == 0 or not waiting:
            assert not taken
            if free_instances:
                self.runs_without_the_oldest = 0  # nothing waits that was passed over
            return
        assert taken, "a free instance never idles while work waits"
        assert len(set(taken)) == len(taken)
        assert set(taken) <= set(waiting), "neither abandoned nor expired work runs"
        assert len(taken) == 1 or sum(e.tokens for e in taken) <= RUN_TOKENS
        oldest_first = self.runs_without_the_oldest >= MAX_PASSES
        assert taken[0] is (waiting[0] if oldest_first else min(waiting, key=urgency))
        if free_instances == 1:
            assert taken == whole_queue_run(waiting, oldest_first=oldest_first)
        self.note_passes(taken, waiting[0])

    def note_passes(self, taken: list[Entry[Work]], oldest: Entry[Work]) -> None:
        served = oldest in taken
        self.runs_without_the_oldest = 0 if served else self.runs_without_the_oldest + 1
        self.passes[oldest] = self.passes.get(oldest, 0) + (not served)
        assert self.passes[oldest] <= MAX_PASSES, "the oldest is passed over a few times at most"

    @invariant()
    def nothing_is_lost(self) -> None:
        live = sum(not e.work.abandoned for e in self.waiting)
        assert live <= len(self.policy) <= self.count

    def teardown(self) -> None:
        left = self.policy.clear()
        live = [e for e in self.waiting if not e.work.abandoned]
        assert [e for e in left if not e.work.abandoned] == live
        assert len(self.policy) == 0
        assert self.policy.wake_ns(self.now_ns) is None


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def run(policy: EncoderPolicy[Work], *, now_ns: int = 0, free: int = 1) -> list[int]:
    return numbers(policy.form(now_ns=now_ns, free_instances=free).entries)


def numbers(entries: Iterable[Entry[Work]]) -> list[int]:
    return [e.work.number for e in entries]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), min_size=1, max_size=200))
def test_everything_is_served_in_a_bounded_number_of_runs(arrivals: list[tuple[int, int]]) -> None:
    policy = make_policy()
    for number, (tokens, priority) in enumerate(arrivals):
        policy.add(entry(number, tokens, priority=priority))
    served: list[int] = []
    for _ in arrivals:  # each run serves at least one
        served += run(policy)
    assert sorted(served) == list(range(len(arrivals)))
    assert len(policy) == 0


def test_urgent_work_that_never_ends_does_not_starve_the_rest() -> None:
    policy = make_policy()
    policy.add(entry(0, 10, priority=3))
    for number in range(1, 100):
        policy.add(entry(number, RUN_TOKENS, priority=1))
        if 0 in run(policy):
            break
    assert number == MAX_PASSES + 1


def test_a_lone_entry_runs_at_once() -> None:
    policy = make_policy()
    policy.add(entry(0, 5))
    assert run(policy, free=2) == [0]


def test_the_earliest_deadline_is_first_within_a_priority() -> None:
    policy = make_policy()
    policy.add(entry(0, 200))
    policy.add(entry(1, 200, deadline_ns=90))
    policy.add(entry(2, 200, deadline_ns=50))
    policy.add(entry(3, 200, priority=1))
    assert [run(policy) for _ in range(4)] == [[3], [2], [1], [0]]


def test_waiting_tokens_are_shared_out_among_free_instances() -> None:
    policy = make_policy()
    for _ in range(2):
        for number in range(16):
            policy.add(entry(number, 16))
        assert (len(run(policy, free=2)), len(run(policy))) == (8, 8)


def test_tokens_that_were_cleared_are_not_shared_out() -> None:
    policy = make_policy()
    policy.add(entry(99, 1000))
    policy.clear()
    for number in range(16):
        policy.add(entry(number, 16))
    assert len(run(policy, free=2)) == 8


def test_small_work_is_not_split() -> None:
    policy = make_policy()
    for number in range(4):
        policy.add(entry(number, 16))
    assert len(run(policy, free=2)) == 4


def test_what_does_not_fit_is_passed_over_and_keeps_its_place() -> None:
    policy = make_policy()
    for number, tokens in enumerate((200, 100, 50, 150)):
        policy.add(entry(number, tokens))
    assert run(policy) == [0, 2]
    assert run(policy) == [1, 3]


def test_the_look_ahead_is_bounded() -> None:
    policy = make_policy()
    policy.add(entry(0, 200))
    for number in range(1, LOOK_AHEAD + 1):
        policy.add(entry(number, 100))
    policy.add(entry(99, 1))
    assert run(policy) == [0]


def test_a_long_queue_makes_forming_no_slower() -> None:
    looks = 0

    def abandoned(_: Work) -> bool:
        nonlocal looks
        looks += 1
        return False

    policy: EncoderPolicy[Work] = EncoderPolicy(
        run_tokens=RUN_TOKENS,
        min_share_tokens=MIN_SHARE_TOKENS,
        look_ahead_entries=LOOK_AHEAD,
        abandoned=abandoned,
    )
    for number in range(10_000):
        policy.add(entry(number, 100, deadline_ns=1_000_000 - number))
    for _ in range(100):
        looks = 0
        taken = run(policy)
        assert looks <= len(taken) + LOOK_AHEAD + 1


@given(
    lengths=st.lists(st.integers(1, RUN_TOKENS), min_size=1, max_size=60),
    seed=st.randoms(use_true_random=False),
    free=st.integers(1, 3),
)
def test_whatever_is_chosen_everything_runs_once_and_nothing_starves(
    lengths: list[int], seed: random.Random, free: int
) -> None:
    offered: list[int] = []

    def choose(found: Sequence[int]) -> Sequence[int]:
        offered.append(len(found))
        return [0, *seed.sample(range(1, len(found)), seed.randint(0, len(found) - 1))]

    policy = make_policy(choose)
    for number, tokens in enumerate(lengths):
        policy.add(entry(number, tokens, priority=seed.randint(1, 3)))
    ran: list[int] = []
    waited = 0
    while len(policy):
        oldest = min(set(range(len(lengths))) - set(ran))
        batch = policy.form(now_ns=0, free_instances=free)
        assert batch.entries
        ran += [taken.work.number for taken in batch.entries]
        waited = 0 if oldest in ran else waited + 1
        assert waited <= MAX_PASSES
    assert sorted(ran) == list(range(len(lengths)))
    assert all(count <= LOOK_AHEAD + 1 for count in offered)


def test_what_is_chosen_runs_when_more_waits_than_fits() -> None:
    policy = make_policy(lambda lengths: [0, len(lengths) - 1])
    for number in range(4):
        policy.add(entry(number, 100))

    assert [e.work.number for e in policy.form(now_ns=0, free_instances=1).entries] == [0, 3]
    # 200 tokens fit in one run: they are shared out as they came.
    assert [e.work.number for e in policy.form(now_ns=0, free_instances=1).entries] == [1, 2]


@given(
    entries=st.lists(
        st.tuples(st.integers(1, RUN_TOKENS), st.integers(0, 4), st.none() | st.integers(1, 9)),
        max_size=40,
    ),
    runs=st.integers(0, 10),
    asked=st.integers(0, 5),
    asked_s=st.none() | st.integers(1, 9),
)
def test_ahead_of_an_entry_is_what_is_more_urgent(
    entries: list[tuple[int, int, int | None]], runs: int, asked: int, asked_s: int | None
) -> None:
    def ranked(priority: int, expires_s: int | None) -> tuple[int, float]:
        return priority or DEFAULT_PRIORITY, expires_s or float("inf")

    policy = make_policy()
    for number, (tokens, priority, expires_s) in enumerate(entries):
        deadline_ns = expires_s and expires_s * 10**9
        policy.add(entry(number, tokens, priority=priority, deadline_ns=deadline_ns))
    ran = {number for _ in range(runs) for number in run(policy)}
    expires_ns = asked_s * 10**9 if asked_s else 1 << 63
    assert policy.tokens_ahead(asked, expires_ns) == sum(
        tokens
        for number, (tokens, priority, expires_s) in enumerate(entries)
        if number not in ran and ranked(priority, expires_s) <= ranked(asked, asked_s)
    )

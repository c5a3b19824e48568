"""Threads that read: shared between collections, so that none holds them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.collections.read_shares import ReadShares


class ByHand(Executor):
    """Runs what was submitted when it is told to."""

    def __init__(self) -> None:
        self.running: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        self.running.append((fn, args))
        return Future()

    @property
    def collections(self) -> Counter[str]:
        return Counter(args[0] for _, args in self.running)

    def finish(self, place: int = 0) -> None:
        fn, args = self.running.pop(place)
        fn(*args)


def test_one_collection_gets_its_share_and_another_comes_at_once() -> None:
    pool = ByHand()
    shares = ReadShares(pool, threads=8, share=2)
    slow = [shares.submit("slow", lambda: 1) for _ in range(6)]
    assert pool.collections == {"slow": 2}
    other = shares.submit("other", lambda: 2)
    assert pool.collections == {"slow": 2, "other": 1}
    pool.finish(2)
    assert other.result() == 2
    while pool.running:
        pool.finish()
    assert [job.result() for job in slow] == [1] * 6


def test_several_slow_collections_leave_a_thread_for_the_next() -> None:
    pool = ByHand()
    shares = ReadShares(pool, threads=8, share=2)
    for number in range(4):
        for _ in range(9):
            shares.submit(f"slow{number}", lambda: None)
        assert pool.collections[f"slow{number}"] >= 1
    assert len(pool.running) < 8
    shares.submit("other", lambda: None)
    assert pool.collections["other"] == 1


def test_a_read_that_is_cancelled_while_it_waits_is_forgotten() -> None:
    pool = ByHand()
    shares = ReadShares(pool, threads=8, share=1)
    shares.submit("a", lambda: None)
    waiting = [shares.submit("a", pytest.fail) for _ in range(100)]
    assert all(job.cancel() for job in waiting)
    assert shares.waiting == 0
    pool.finish()
    assert not pool.running


@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=60),
    threads=st.integers(1, 9),
    share=st.integers(1, 4),
)
def test_every_read_is_done_once_and_in_order_within_its_collection(
    steps: list[tuple[str, int]], threads: int, share: int
) -> None:
    pool = ByHand()
    done: list[int] = []
    shares = ReadShares(pool, threads=threads, share=share)
    jobs = []
    for number, (collection, finished) in enumerate(steps):
        jobs.append(shares.submit(collection, partial(done.append, number)))
        assert len(pool.running) <= threads
        assert all(count <= share for count in pool.collections.values())
        assert pool.running
        for _ in range(min(finished, len(pool.running))):
            pool.finish()
    while pool.running:
        pool.finish()
    assert all(job.done() for job in jobs)
    for collection in "abc":
        own = [number for number, (name, _) in enumerate(steps) if name == collection]
        assert [number for number in done if number in own] == own


def test_what_a_read_raises_reaches_whoever_waits() -> None:
    pool = ByHand()
    shares = ReadShares(pool, threads=1, share=1)

    def fail() -> None:
        raise KeyError("x")

    failing, fine = shares.submit("a", fail), shares.submit("a", lambda: 1)
    pool.finish()
    pool.finish()
    assert isinstance(failing.exception(), KeyError)
    assert fine.result() == 1

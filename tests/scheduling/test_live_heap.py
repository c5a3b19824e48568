"""The heap that forgets what is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.scheduling.policies.live_heap import LiveHeap


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=300))
def test_the_least_live_key_comes_first(steps: list[tuple[int, bool]]) -> None:
    live: dict[int, tuple[int, int]] = {}
    heap = LiveHeap(live)
    for number, (value, leaves) in enumerate(steps):
        live[number] = (value, number)
        heap.push(live[number])
        if leaves:
            live.pop(min(live))
        assert heap.peek() == min(live.values(), default=None)
        assert heap.pop_until(-1) is None
    popped = [heap.pop() for _ in live]
    assert popped == sorted(live.values())
    assert heap.pop() is None


def test_until_includes_the_last() -> None:
    heap = LiveHeap({0, 1})
    heap.push((5, 0))
    heap.push((6, 1))
    assert [heap.pop_until(last) for last in (4, 5, 5, 6)] == [None, (5, 0), None, (6, 1)]


def test_it_stays_small_although_none_of_the_gone_is_ever_met() -> None:
    live: dict[int, None] = {-1: None}
    heap = LiveHeap(live)
    heap.push((0, -1))
    for number in range(10_000):
        live[number] = None
        heap.push((number + 1, number))
        del live[number]
    assert len(heap._keys) < 100
    assert heap.peek() == (0, -1)

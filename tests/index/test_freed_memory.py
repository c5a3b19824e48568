"""Giving memory back: when, for how long it is tried, and what is accepted."""

from __future__ import annotations

from vecserve_server.index.freed_memory import GROWN_BYTES, LOOKS, Growth

QUIET = 10 * GROWN_BYTES


def test_a_process_that_does_not_grow_is_left_alone() -> None:
    growth = Growth(QUIET)
    assert not any(growth.look(QUIET + step) for step in range(0, GROWN_BYTES, GROWN_BYTES // 20))


def test_what_is_freed_later_is_given_back_too() -> None:
    growth = Growth(QUIET)
    looks = [growth.look(QUIET * 2) for _ in range(40)]
    assert [number for number, gives in enumerate(looks, 1) if gives] == [1, 2, 4, 8, 16, 32]


def test_what_is_in_use_for_good_is_accepted() -> None:
    growth = Growth(QUIET)
    for _ in range(LOOKS):
        growth.look(QUIET * 2)
    assert not any(growth.look(QUIET * 2) for _ in range(LOOKS))
    assert growth.look(QUIET * 3)


def test_growth_counts_from_the_least_that_was_seen() -> None:
    growth = Growth(QUIET * 2)
    assert not growth.look(QUIET)
    assert growth.look(QUIET + GROWN_BYTES + 1)

"""What the index lets go of goes back to the system, not only to the C library."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from vecserve_server.index.freed_memory import GROWN_BYTES, LOOKS, Growth, return_freed_memory

QUIET = 10 * GROWN_BYTES

BLOCKS, BLOCK_BYTES = 1000, 64 << 10


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_pages_between_blocks_in_use_are_given_back() -> None:
    # So small that they come from the heap, where the last block keeps the others' pages.
    blocks = [bytes([1]) * BLOCK_BYTES for _ in range(BLOCKS)]
    full_bytes = _resident_bytes()
    del blocks[:-1]

    return_freed_memory()

    assert full_bytes - _resident_bytes() > 0.9 * BLOCKS * BLOCK_BYTES


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


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

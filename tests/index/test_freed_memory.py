"""What the index lets go of goes back to the system, not only to the C library."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from vecserve_server.index.freed_memory import (
    LOOK_S,
    WORTH_BYTES,
    next_pause_s,
    return_freed_memory,
)

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


def test_one_looks_less_often_while_nothing_comes_of_it() -> None:
    pauses_s = [LOOK_S]
    for _ in range(6):
        pauses_s.append(next_pause_s(pauses_s[-1], 0))
    assert pauses_s == [1, 2, 4, 8, 16, 16, 16]
    assert next_pause_s(pauses_s[-1], WORTH_BYTES) == LOOK_S

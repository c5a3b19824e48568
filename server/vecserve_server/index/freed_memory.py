"""Giving freed memory back to the system.

Owns the call into the C library. Must not know what was freed.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from contextlib import suppress
from typing import NoReturn

from vecserve_server.observability.process import resident_bytes

LOOK_S, LONGEST_PAUSE_S = 1.0, 16.0
GROWN_BYTES, WORTH_BYTES = 64 << 20, 4 << 20


def return_freed_memory() -> None:
    """Give back pages that the C library keeps for later, megabytes after a segment was opened.

    glibc keeps what was freed in its heaps and raises the size up to which it does so, 32 MiB at
    most (`malloc_trim(3)`, `mallopt(3)`). Does nothing with another C library.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def next_pause_s(pause_s: float, freed_bytes: int) -> float:
    """Tell how long to wait for the next look: longer and longer while nothing comes of it.

    What was taken is often still in use when it is noticed, and freed some seconds later.
    """
    return LOOK_S if freed_bytes >= WORTH_BYTES else min(2 * pause_s, LONGEST_PAUSE_S)


async def return_what_others_free() -> NoReturn:
    """Look now and then whether the process has grown, and give back what of that is free again.

    Large requests leave holes that the C library keeps for ever otherwise.
    """
    least_bytes = after_bytes = resident_bytes()
    pause_s = LOOK_S
    while True:
        await asyncio.sleep(pause_s)
        seen_bytes, before_bytes = after_bytes, resident_bytes()
        after_bytes = before_bytes
        if before_bytes > least_bytes + GROWN_BYTES:
            if before_bytes > seen_bytes + GROWN_BYTES:
                pause_s = LOOK_S  # it has grown again
            if pause_s < LONGEST_PAUSE_S:  # not for ever, where the process has grown for good
                gc.collect()  # some 30 ms; gRPC leaves failed calls, with their messages, in cycles
            await asyncio.to_thread(return_freed_memory)
            after_bytes = resident_bytes()
            pause_s = next_pause_s(pause_s, before_bytes - after_bytes)
        else:
            pause_s = LOOK_S
        least_bytes = min(least_bytes, after_bytes)

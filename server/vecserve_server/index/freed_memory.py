"""Giving freed memory back to the system.

Owns the call into the C library. Must not know what was freed.
"""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import suppress
from typing import NoReturn

from vecserve_server.observability.process import resident_bytes

LOOK_S = 1.0
GROWN_BYTES = 16 << 20


def return_freed_memory() -> None:
    """Give back pages that the C library keeps for later, megabytes after a segment was opened.

    glibc keeps what was freed in its heaps and raises the size up to which it does so, 32 MiB at
    most (`malloc_trim(3)`, `mallopt(3)`). Does nothing with another C library.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def return_what_others_free() -> NoReturn:
    """Look now and then whether the process has grown, and give back what of that is free again.

    Large requests leave holes that the C library keeps for ever otherwise.
    """
    settled_bytes = resident_bytes()
    while True:
        await asyncio.sleep(LOOK_S)
        if resident_bytes() > settled_bytes + GROWN_BYTES:
            await asyncio.to_thread(return_freed_memory)
            settled_bytes = resident_bytes()
        settled_bytes = min(settled_bytes, resident_bytes())

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
LOOKS = 64


class Growth:
    """When to give memory back: after it has grown, again and again, less and less often.

    What was taken is often still in use when it is noticed; what is in use for good is accepted
    after so many looks.
    """

    def __init__(self, resident_bytes: int) -> None:
        self._settled_bytes = resident_bytes
        self._looks = 0

    def look(self, resident_bytes: int) -> bool:
        """Note what the process takes now; tell whether to give back what is free."""
        if resident_bytes <= self._settled_bytes + GROWN_BYTES:
            self._settled_bytes = min(self._settled_bytes, resident_bytes)
            self._looks = 0
            return False
        self._looks += 1
        if self._looks == LOOKS:
            self._settled_bytes, self._looks = resident_bytes, 0
            return True
        return self._looks & (self._looks - 1) == 0  # the first, second, fourth, eighth …


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
    growth = Growth(resident_bytes())
    while True:
        await asyncio.sleep(LOOK_S)
        if growth.look(resident_bytes()):
            await asyncio.to_thread(return_freed_memory)

"""Giving freed memory back to the system.

Owns the call into the C library. Must not know what was freed.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress


def return_freed_memory() -> None:
    """Give back pages that the C library keeps for later, megabytes after a segment was opened.

    glibc keeps what was freed in its heaps and raises the size up to which it does so, 32 MiB at
    most (`malloc_trim(3)`, `mallopt(3)`). Does nothing with another C library.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

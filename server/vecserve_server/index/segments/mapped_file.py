"""A file in memory without a descriptor that stays open, so that many can be mapped.

Python's `mmap` keeps a descriptor for each mapping until version 3.13. Owns the mapping's life.
Must not know what the file holds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

_FAILED = ctypes.c_void_p(-1).value


def map_file(path: Path) -> Any:
    """Map a whole file for reading in no order; unmapped when nothing looks at it any more.

    Returns an object with the buffer protocol. Raises OSError; ValueError for an empty file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size_bytes = os.fstat(descriptor).st_size
        if not size_bytes:
            raise ValueError("cannot map an empty file")
        address = _libc().mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)
    # Advice: where it is refused, reading is slower.
    _libc().madvise(address, size_bytes, mmap.MADV_RANDOM)
    mapped = (ctypes.c_char * size_bytes).from_address(address)
    weakref.finalize(mapped, _libc().munmap, address, size_bytes).atexit = False
    return mapped


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc

"""Judge whether a model fits into memory before it is read.

Owns the estimate and the reading of what is free. Must not know checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from vecserve_server.errors import ModelError
from vecserve_server.export.model_file import EXTERNAL_FROM_BYTES

_PEAK_PER_WEIGHT_BYTE, _PEAK_OF_LARGE = 6, 4
"""Measured peaks of an import, in multiples of the float32 weights, rounded up; tensors of a large
model are written one by one."""
_BASE_BYTES = 128 * 1024 * 1024
_GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")


def check_fits(weight_bytes: int, limit_bytes: int | None) -> None:
    """Raise `ModelError` where importing float32 weights of this size takes more than the limit."""
    large = weight_bytes >= EXTERNAL_FROM_BYTES
    needed = weight_bytes * (_PEAK_OF_LARGE if large else _PEAK_PER_WEIGHT_BYTE) + _BASE_BYTES
    if limit_bytes is not None and needed > limit_bytes:
        raise ModelError(
            f"the import needs about {needed / _GIB:.1f} GiB of memory for "
            f"{weight_bytes / _GIB:.2f} GiB of weights, {limit_bytes / _GIB:.1f} GiB are available"
        )


def available_memory_bytes() -> int | None:
    """Return what this process may still take: free memory or the control group's rest.

    None where the system does not say.
    """
    known = [size for size in (_free_memory(), _group_rest()) if size is not None]
    return min(known, default=None)


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _group_rest() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text("utf-8").strip()
        used = int((_CGROUP / "memory.current").read_text("utf-8"))
        stat = (_CGROUP / "memory.stat").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return None
    # Cached files count as used but give way to whoever asks for memory.
    cached = sum(int(line.split()[1]) for line in stat if line.startswith("file "))
    return max(0, int(limit) - used + cached) if limit.isdecimal() else None

"""What the operating system says about this process and its share of the machine (Linux)."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_FOLDER = Path("/sys/devices/system/cpu")
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CGROUP = Path("/sys/fs/cgroup")
THREADS_PER_CPU, LEAST_THREADS = 4, 16


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def usable_physical_cores() -> int:
    """Count the physical cores that this process may keep busy: affinity and cgroup quota apply."""
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota_cpus()))


def _siblings(cpu: int) -> str:
    # Logical CPUs of one core list the same siblings.
    path = CPU_FOLDER / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _quota_cpus() -> int:
    try:
        quota, period = CGROUP_QUOTA.read_text(encoding="ascii").split()[:2]
    except (OSError, ValueError):
        return os.cpu_count() or 1
    return math.ceil(int(quota) / int(period)) if quota.isdecimal() else os.cpu_count() or 1


def usable_threads() -> int:
    """Return how many threads one model may ask for: a few for each CPU of this process."""
    return max(LEAST_THREADS, THREADS_PER_CPU * len(os.sched_getaffinity(0)))


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

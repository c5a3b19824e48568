"""What the operating system says about this process and its share of the machine (Linux)."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_FOLDER = Path("/sys/devices/system/cpu")
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
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

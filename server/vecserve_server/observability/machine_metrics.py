"""The machine's processors and memory, under the names that Triton's dashboards ask for.

Owns names and units. Reads the system when it is scraped. There is no pool of pinned memory here:
its metrics are 0, so that a dashboard which divides or sums them goes on working.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STAT, _MEMORY = Path("/proc/stat"), Path("/proc/meminfo")
_THREADS = Path("/proc/self/task")
_IDLE = slice(3, 5)
"""Columns of /proc/stat: idle, and waiting for the disk."""


class MachineMetrics(Collector):
    """Collect from /proc; utilisation is that since the scrape before."""

    def __init__(self, *, stat: Path = _STAT, memory: Path = _MEMORY) -> None:
        self._stat = stat
        self._memory = memory
        self._lock = threading.Lock()
        self._before = _ticks(stat)

    def collect(self) -> Iterable[Metric]:
        """Read the files; a file that cannot be read gives no metric."""
        with self._lock:
            before, self._before = self._before, _ticks(self._stat)
            after = self._before
        if before and after:
            busy, total = (now - then for now, then in zip(after, before, strict=True))
            part = min(1.0, max(0.0, busy / total)) if total > 0 else 0.0
            yield _gauge("nv_cpu_utilization", "Part of all CPUs' time that was used, 0 to 1", part)
        sizes = _sizes(self._memory)
        if {"MemTotal", "MemAvailable"} <= sizes.keys():
            total, free = sizes["MemTotal"], sizes["MemAvailable"]
            yield _gauge("nv_cpu_memory_total_bytes", "Memory of the machine", total)
            yield _gauge("nv_cpu_memory_used_bytes", "Memory in use", total - free)
        for part_name in ("total", "used"):
            name = f"nv_pinned_memory_pool_{part_name}_bytes"
            yield _gauge(name, "Pinned memory, of which there is none", 0)
        threads = sum(1 for _ in _THREADS.iterdir())
        yield _gauge("vecserve_threads", "Threads of this process", threads)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _ticks(stat: Path) -> tuple[int, int] | None:
    """Return the time in use and all time of all CPUs since the machine's start."""
    try:
        columns = stat.read_text("ascii").split("\n", 1)[0].split()[1:9]
    except (OSError, UnicodeDecodeError):
        return None
    numbers = [int(column) for column in columns]
    return sum(numbers) - sum(numbers[_IDLE]), sum(numbers)


def _sizes(memory: Path) -> dict[str, int]:
    try:
        lines = memory.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    fields = [line.split() for line in lines]
    return {field[0].rstrip(":"): int(field[1]) * 1024 for field in fields if len(field) > 1}

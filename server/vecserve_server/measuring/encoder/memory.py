"""Resident memory of one engine after many requests of random lengths.

In a process of its own: `python -m vecserve_server.measuring.encoder.memory REPOSITORY ENGINE
REQUESTS` prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from vecserve_server.measuring.encoder.subject import (
    WORKERS,
    Sequences,
    Subject,
    open_subject,
    uncached,
)
from vecserve_server.measuring.machine import resident_bytes
from vecserve_server.measuring.reports import Report, print_report

_FIRST_REQUESTS: Final = 1_000
_MOST_AT_A_TIME: Final = 8
_HELD_BATCHES: Final = 64
"""That exist at a time: thousands would take memory of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Resident memory of a process that does nothing else."""

    requests: int
    warm_mb: float
    after_1000_mb: float
    after_all_mb: float
    growth: float


def measure_in_own_process(repository: Path, engine: str, requests: int) -> Report:
    """Run the requests in a new process; return its `MemoryReport`."""
    command = [sys.executable, "-m", __name__, str(repository), engine, str(requests)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  our own module
    report: Report = json.loads(done.stdout)
    return report


def measure_memory(repository: Path, engine: str, requests: int) -> MemoryReport:
    """Look at this process's memory when warm, after the first thousand requests and after all."""
    with uncached(repository) as fresh:
        subject = open_subject(fresh, engine=engine, precision="int8")
    warm_bytes = resident_bytes()
    random = np.random.default_rng(0)
    first_bytes = _bytes_after(subject, min(requests, _FIRST_REQUESTS), random)
    all_bytes = _bytes_after(subject, max(0, requests - _FIRST_REQUESTS), random)
    return MemoryReport(
        requests=requests,
        warm_mb=round(warm_bytes / 1e6, 1),
        after_1000_mb=round(first_bytes / 1e6, 1),
        after_all_mb=round(all_bytes / 1e6, 1),
        growth=round(all_bytes / first_bytes, 4),
    )


def _bytes_after(subject: Subject, requests: int, random: np.random.Generator) -> int:
    batches = _batches(random, requests, subject.model.config.max_tokens)
    with ThreadPoolExecutor(WORKERS) as pool:
        while some := list(islice(batches, _HELD_BATCHES)):
            deque(pool.map(subject.run, some), maxlen=0)
    return resident_bytes()


def _batches(random: np.random.Generator, requests: int, max_tokens: int) -> Iterator[Sequences]:
    """Yield requests of random lengths, some of them at a time."""
    while requests > 0:
        count = min(requests, int(random.integers(1, _MOST_AT_A_TIME + 1)))
        lengths = np.exp(random.uniform(np.log(2), np.log(max_tokens), count)).astype(int)
        yield [random.integers(1000, 20_000, length) for length in lengths]
        requests -= count


if __name__ == "__main__":
    print_report(measure_memory(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

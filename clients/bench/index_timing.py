"""Timing searches: one query at a time, in microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from index_data import Rows, Vectors
from index_subject import Subject

K = 10
_BLOCK = 50


def one(subject: Subject, query: Vectors, *, exact: bool = False) -> Rows:
    """Search for one vector, float32 [D]; return the seqs."""
    return subject.index.search(query[np.newaxis], K, exact=exact)[0].seqs


def timed(search: Callable[[Vectors], Any], queries: Iterable[Vectors]) -> list[float]:
    """Return how long each search took."""
    taken_us = []
    for query in queries:
        began_s = time.perf_counter()
        search(query)
        taken_us.append((time.perf_counter() - began_s) * 1e6)
    return taken_us


def search_for(
    subject: Subject, queries: Vectors, seconds: float, wanted: Callable[[], bool] = lambda: True
) -> list[float]:
    """Search again and again while it is wanted, at most so long; return the times."""
    times: list[float] = []
    deadline_s = time.perf_counter() + seconds
    place = 0
    while time.perf_counter() < deadline_s and wanted():
        times += timed(lambda query: one(subject, query), queries[place : place + _BLOCK])
        place = (place + _BLOCK) % max(len(queries) - _BLOCK + 1, 1)
    return times


def quantiles(times_us: Sequence[float]) -> dict[str, float]:
    """Return the percentiles that are reported."""
    p50, p95, p99 = np.percentile(times_us, [50, 95, 99])
    return {"p50_us": round(p50, 1), "p95_us": round(p95, 1), "p99_us": round(p99, 1)}

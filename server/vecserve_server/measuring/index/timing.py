"""Timing searches: one query at a time, in microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from vecserve_server.measuring.index.data import Vectors
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.statistics import percentiles

K: Final = 10
_BLOCK: Final = 50


def timed_us(search: Callable[[Vectors], object], queries: Iterable[Vectors]) -> list[float]:
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
        block = queries[place : place + _BLOCK]
        times += timed_us(lambda query: subject.search_one(query, K), block)
        place = (place + _BLOCK) % max(len(queries) - _BLOCK + 1, 1)
    return times


def quantiles(times_us: Sequence[float]) -> dict[str, float]:
    """Return the percentiles that are reported."""
    return percentiles(times_us).as_json("us", 1)

"""How long a series of searches took, in percentiles.

Owns the measuring loop and its summary. Must not know how results are printed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vecserve_client import Client, SearchResult
from vecserve_server.measuring.statistics import percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of one stage, in milliseconds."""

    stage: str
    p50_ms: float
    p95_ms: float
    p99_ms: float


def measure_searches(
    client: Client, collection: str, queries: Sequence[str], *, calls: int, k: int
) -> list[Latency]:
    """Search one query after the other, `calls` times, and summarise each stage."""
    samples_us: dict[str, list[float]] = {"embed": [], "search": [], "server": [], "call": []}
    for query in itertools.islice(itertools.cycle(queries), calls):
        started_ns = time.perf_counter_ns()
        answer = client.search(collection, query, k=k)
        samples_us["call"].append((time.perf_counter_ns() - started_ns) / 1e3)
        for stage, spent_us in _stages_us(answer).items():
            samples_us[stage].append(spent_us)
    return summarise(samples_us)


def summarise(samples_us: Mapping[str, Sequence[float]]) -> list[Latency]:
    """Turn microseconds of each stage into percentiles."""
    return [
        Latency(stage=stage, p50_ms=found.p50 / 1e3, p95_ms=found.p95 / 1e3, p99_ms=found.p99 / 1e3)
        for stage, samples in samples_us.items()
        for found in [percentiles(samples)]
    ]


def _stages_us(answer: SearchResult) -> dict[str, float]:
    spent = answer.timings
    return {
        "embed": spent.queue_us + spent.tokenise_us + spent.encode_us,
        "search": spent.search_us,
        "server": spent.total_us,
    }

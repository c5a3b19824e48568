"""What the response cache has done for all models, under Triton's names.

Owns the counters, their names and units. The event loop alone writes; other threads may read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True, kw_only=True)
class CacheStatistics:
    """The counters of one cache."""

    max_bytes: int
    size_bytes: int = 0
    entries: int = 0
    lookups: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    lookup_ns: int = 0
    insertion_ns: int = 0


class CacheMetrics(Collector):
    """Collect from the statistics of a cache."""

    def __init__(self, statistics: CacheStatistics) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        """Read every counter; Triton has them as gauges."""
        counted = self._statistics
        for name, text, value in (
            ("num_entries", "Replies that are kept", counted.entries),
            ("num_lookups", "Requests looked up", counted.lookups),
            ("num_hits", "Requests answered without a run of their own", counted.hits),
            ("num_misses", "Requests that the cache could not answer", counted.misses),
            ("num_evictions", "Replies dropped for newer ones", counted.evictions),
            ("lookup_duration", "Microseconds of looking up", counted.lookup_ns // 1000),
            ("insertion_duration", "Microseconds of keeping", counted.insertion_ns // 1000),
            ("util", "Part of the cache that is in use", counted.size_bytes / counted.max_bytes),
        ):
            yield GaugeMetricFamily(f"nv_cache_{name}", f"{text}, all models", value=value)

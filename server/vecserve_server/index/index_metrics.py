"""The state of the collections' indexes as Prometheus metrics.

Owns names. Reads the state when it is scraped, so nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vecserve_server.index.vectors.vector_index import IndexStats

_GAUGES: tuple[tuple[str, str, Callable[[IndexStats], float]], ...] = (
    ("sealed_rows", "Rows in segments, dead ones included", lambda s: s.sealed_rows),
    ("dead_rows", "Rows in segments that no search returns", lambda s: s.dead_rows),
    ("delta_rows", "Rows that are scanned beside the segments", lambda s: s.delta_rows),
    ("segments", "Segments", lambda s: s.segments),
    ("builds", "Segments built since the start", lambda s: s.builds),
    ("failed_builds", "Builds that failed since the start", lambda s: s.failed_builds),
    ("build_seconds", "Time spent building since the start", lambda s: s.build_seconds),
    ("clip_rate", "Part of the components that the codes cut off", lambda s: s.clip_rate),
)


class IndexMetrics(Collector):
    """Collect from the indexes by the names of their collections."""

    def __init__(self, read: Callable[[], Mapping[str, IndexStats]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Read every index's state."""
        stats = self._read()
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"vecserve_index_{name}", text, labels=("collection",))
            for collection, state in stats.items():
                gauge.add_metric((collection,), read(state))
            yield gauge

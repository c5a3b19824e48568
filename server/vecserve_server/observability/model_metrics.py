"""Model statistics as Prometheus metrics, under the names that Triton's dashboards ask for.

Owns names and units. Reads the statistics when it is scraped, so nothing is counted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from vecserve_server.observability.model_statistics import ModelStatistics, StatisticsTable

_LABELS = ("model", "version")
_Read = Callable[[ModelStatistics], float]

_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("nv_inference_request_success", "Requests answered", lambda s: s.success.count),
    ("nv_inference_count", "Rows that went through a run", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Runs", lambda s: s.execution_count),
    (
        "nv_inference_request_duration_us",
        "Time from arrival to answer",
        lambda s: s.success.ns // 1000,
    ),
    ("nv_inference_queue_duration_us", "Time in the queue", lambda s: s.queue.ns // 1000),
    (
        "nv_inference_compute_input_duration_us",
        "Time gathering inputs",
        lambda s: s.compute.input.ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time in runs",
        lambda s: s.compute.infer.ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time handing out outputs",
        lambda s: s.compute.output.ns // 1000,
    ),
)
_CACHE_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    (
        "nv_cache_num_hits_per_model",
        "Requests answered without a run of their own",
        lambda s: s.cache_hit.count,
    ),
    (
        "nv_cache_num_misses_per_model",
        "Requests that the cache could not answer",
        lambda s: s.cache_miss.count,
    ),
    ("nv_cache_hit_duration_per_model", "Time of hits", lambda s: s.cache_hit.ns // 1000),
    ("nv_cache_miss_duration_per_model", "Time of misses", lambda s: s.cache_miss.ns // 1000),
)
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("nv_inference_pending_request_count", "What waits for a run", lambda s: s.queued),
    ("nv_model_load_duration_secs", "Time of the last load", lambda s: s.load_seconds),
)


class ModelMetrics(Collector):
    """Collect from a table of statistics."""

    def __init__(self, table: StatisticsTable, *, with_cache: bool) -> None:
        """Leave out the cache's counters where there is no cache."""
        self._table = table
        self._counters = (*_COUNTERS, *(_CACHE_COUNTERS if with_cache else ()))

    def collect(self) -> Iterable[Metric]:
        """Read every version's counters."""
        entries = self._table.all()
        # The library appends _total to counters; of an unknown type, the names stay Triton's, and
        # `exposition` says that they are counters.
        for name, text, read in self._counters:
            family = UnknownMetricFamily(name, f"{text}, since the start", labels=_LABELS)
            for key, statistics in entries.items():
                family.add_metric(key, read(statistics))
            yield family
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=_LABELS)
            for key, statistics in entries.items():
                gauge.add_metric(key, read(statistics))
            yield gauge
        yield _failures(entries)


def _failures(entries: dict[tuple[str, str], ModelStatistics]) -> Metric:
    family = UnknownMetricFamily(
        "nv_inference_request_failure",
        "Requests that got no answer, since the start",
        labels=(*_LABELS, "reason"),
    )
    for key, statistics in entries.items():
        for reason, failures in statistics.failures.items():
            family.add_metric((*key, reason.value), failures.count)
    return family

"""The server's Prometheus metrics.

Owns names, labels and buckets. Must not know who counts. Labels are bounded: methods, codes,
models and collections that exist, never ids or texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

from vecserve_server.observability.model_bound_metrics import (
    ModelBoundMetrics,
    make_model_bound_metrics,
)
from vecserve_server.observability.store_metrics import StoreMetrics, make_store_metrics

# Geometric, factor 1.5, from 50 microseconds to about 40 seconds.
SECONDS_BUCKETS = tuple(50e-6 * 1.5**step for step in range(35))
SIZE_BUCKETS = tuple(float(2**step) for step in range(13))
FILL_BUCKETS = tuple(step / 20 for step in range(1, 21))
LENGTH_BOUNDS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Every metric of the server."""

    registry: CollectorRegistry
    requests: Counter
    request_seconds: Histogram
    stage_seconds: Histogram
    batch_items: Histogram
    batch_tokens: Histogram
    token_fill: Histogram
    joined_sequences: Counter
    embed_seconds: Histogram
    inference_seconds: Histogram
    response_cache_bytes: Gauge
    pending_items: Gauge
    open_calls: Gauge
    arriving_messages: Gauge
    unread_bytes: Gauge
    shared_memory_regions: Gauge
    shared_memory_bytes: Gauge
    queued_rows: Gauge
    commits: Gauge
    failed_commits: Gauge
    commit_seconds: Gauge
    rows: Gauge
    store: StoreMetrics
    rejected: Counter
    models: ModelBoundMetrics

    def forget_model(self, name: str) -> None:
        """Drop what was measured of a model that will not come back under its name."""
        for metric in (
            self.batch_items,
            self.batch_tokens,
            self.token_fill,
            self.joined_sequences,
            self.embed_seconds,
            self.inference_seconds,
            self.models.ended_runs,
        ):
            metric.remove_by_labels({"model": name})


def make_metrics() -> Metrics:
    """Register all metrics in a registry of their own."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)

    def histogram(
        name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, registry=registry, buckets=buckets)

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=registry)

    def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=registry)

    return Metrics(
        registry=registry,
        requests=counter("vecserve_requests", "Calls answered", ("method", "code")),
        request_seconds=histogram(
            "vecserve_request_seconds", "Time from arrival to answer", ("method",), SECONDS_BUCKETS
        ),
        stage_seconds=histogram(
            "vecserve_stage_seconds", "Time in one stage of a call", ("stage",), SECONDS_BUCKETS
        ),
        batch_items=histogram(
            "vecserve_batch_items", "Sequences in one encoder run", ("model",), SIZE_BUCKETS
        ),
        batch_tokens=histogram(
            "vecserve_batch_tokens", "Tokens in one encoder run", ("model",), SIZE_BUCKETS
        ),
        token_fill=histogram(
            "vecserve_token_fill",
            "Part of the tokens of a run that were the texts' and not padding",
            ("model",),
            FILL_BUCKETS,
        ),
        joined_sequences=counter(
            "vecserve_joined_sequences",
            "Sequences that got the vector of an identical one that waited or ran",
            ("model",),
        ),
        embed_seconds=histogram(
            "vecserve_embed_seconds",
            "Time from texts to vectors, by the tokens of the longest text of the call",
            ("model", "tokens"),
            SECONDS_BUCKETS,
        ),
        inference_seconds=histogram(
            "vecserve_inference_seconds",
            "Time of an inference request, by stage",
            ("model", "stage"),
            SECONDS_BUCKETS,
        ),
        response_cache_bytes=gauge("vecserve_response_cache_bytes", "Size of the kept replies"),
        **_at_the_doors(gauge),
        pending_items=gauge("vecserve_pending_items", "Items of accepted, unanswered calls"),
        queued_rows=gauge("vecserve_queued_rows", "Rows that wait for the store writer"),
        commits=gauge("vecserve_commits", "Transactions that the store writer has committed"),
        failed_commits=gauge("vecserve_failed_commits", "Transactions that failed"),
        commit_seconds=gauge("vecserve_commit_seconds", "Time in transactions, with fsync"),
        rows=gauge("vecserve_rows", "Live rows", ("collection",)),
        store=make_store_metrics(registry),
        rejected=counter("vecserve_rejected", "Calls refused before any work", ("reason",)),
        models=make_model_bound_metrics(registry),
    )


def _at_the_doors(gauge: Callable[..., Gauge]) -> dict[str, Gauge]:
    return {
        "open_calls": gauge("vecserve_open_calls", "Open calls and streams", ("kind",)),
        "arriving_messages": gauge(
            "vecserve_arriving_messages", "Open calls and streams that wait for a message"
        ),
        "unread_bytes": gauge("vecserve_unread_bytes", "Replies that no client has read yet"),
        "shared_memory_regions": gauge(
            "vecserve_shared_memory_regions", "Regions that clients have registered"
        ),
        "shared_memory_bytes": gauge("vecserve_shared_memory_bytes", "Sum of their sizes"),
    }


def length_label(tokens: int) -> str:
    """Name the bucket of a length, so that latency can be told apart by it."""
    bounds = (bound for bound in LENGTH_BOUNDS if tokens <= bound)
    return f"<={bound}" if (bound := next(bounds, None)) else f">{LENGTH_BOUNDS[-1]}"

"""Metrics of what collections share: their files, the threads that read, work on whole collections.

Owns names and labels. Must not know who counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMetrics:
    """What is counted beside the rows."""

    collection_up: Gauge
    open_stores: Gauge
    opened_stores: Gauge
    waiting_reads: Gauge
    upkeep_jobs: Gauge


def make_store_metrics(registry: CollectorRegistry) -> StoreMetrics:
    """Register the metrics."""

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"vecserve_{name}", text, labels, registry=registry)

    return StoreMetrics(
        collection_up=gauge(
            "collection_up",
            "1 if the collection's files are where they were opened, so that it can be written",
            ("collection",),
        ),
        open_stores=gauge("open_stores", "Files of rows that are open"),
        opened_stores=gauge("opened_stores", "How often a file of rows was opened"),
        waiting_reads=gauge("waiting_reads", "Reads that wait for a search thread"),
        upkeep_jobs=gauge(
            "upkeep_jobs", "Snapshots, restores, checks and compactions under way or waiting"
        ),
    )

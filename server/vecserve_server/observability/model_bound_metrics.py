"""What the bounds on models have refused or ended.

Owns names and labels. Must not know who counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBoundMetrics:
    """The metrics of bounds on loads and runs."""

    ended_runs: Counter
    refused_loads: Counter
    changes: Gauge


def make_model_bound_metrics(registry: CollectorRegistry) -> ModelBoundMetrics:
    """Register them."""
    return ModelBoundMetrics(
        ended_runs=Counter(
            "vecserve_ended_runs",
            "Runs of models ended early: nobody waited any more, or they took too long",
            ("model", "reason"),
            registry=registry,
        ),
        refused_loads=Counter(
            "vecserve_refused_loads",
            "Loads of models refused or ended by a bound",
            ("reason",),
            registry=registry,
        ),
        changes=Gauge(
            "vecserve_model_changes",
            "Loads and unloads in progress or waiting for others",
            registry=registry,
        ),
    )

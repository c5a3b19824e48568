"""What the figures of vecserve and Triton say, side by side.

Owns the medians, the ratios within a round, and the targets. Pure; must not know how figures are
obtained.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from vecserve_server.measuring.statistics import median_ratio
from vecserve_server.measuring.triton.forms import BEST, PLAIN_ONNX, USUAL
from vecserve_server.measuring.triton.perf_analyzer import Figures

VECSERVE: Final = "vecserve"
TRITON: Final = "triton"
MIX, SHORT = "mix", "short"
Metric: TypeAlias = Literal["throughput_per_s", "p50_ms", "p95_ms"]
_METRICS: Final[tuple[Metric, ...]] = ("throughput_per_s", "p50_ms", "p95_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of perf_analyzer."""

    traffic: str
    clients: int
    way: str
    """`vecserve`, Triton's form, or `triton` where it runs a plain ONNX model."""
    round: int
    figures: Figures
    busy_cores: float
    """Cores that the server's processes used on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A ratio of vecserve to Triton: at least, for throughput, or at most, for a latency."""

    traffic: str
    clients: int
    metric: Metric
    over: tuple[str, ...]
    """Triton's forms; the one with the highest throughput counts, or the lowest p50 for a p50."""
    bound: float


TARGETS: Final = (
    Target(traffic=MIX, clients=32, metric="throughput_per_s", over=BEST, bound=1.4),
    Target(traffic=MIX, clients=32, metric="p95_ms", over=BEST, bound=0.7),
    Target(traffic=MIX, clients=32, metric="throughput_per_s", over=(USUAL,), bound=8.0),
    Target(traffic=MIX, clients=32, metric="p95_ms", over=(USUAL,), bound=0.12),
    Target(traffic=SHORT, clients=8, metric="throughput_per_s", over=BEST, bound=1.5),
    Target(traffic=SHORT, clients=32, metric="throughput_per_s", over=BEST, bound=1.5),
    Target(traffic=MIX, clients=1, metric="p50_ms", over=BEST, bound=1.0),
    Target(traffic=SHORT, clients=1, metric="p50_ms", over=BEST, bound=1.0),
    *(
        Target(traffic=model, clients=clients, metric="throughput_per_s", over=(TRITON,), bound=1.0)
        for model in PLAIN_ONNX
        for clients in (8, 32)
    ),
    *(
        Target(traffic=model, clients=1, metric="p50_ms", over=(TRITON,), bound=1.0)
        for model in PLAIN_ONNX
    ),
)


def summarise(measured: Sequence[Measurement]) -> dict[str, Any]:
    """Return the medians by traffic, clients and way, every ratio, and how the targets fare."""
    return {
        "medians": _medians(measured),
        "vecserve_over_triton": _ratios(measured),
        "targets": [judged for target in TARGETS if (judged := _judge(measured, target))],
        "rounds": [
            {"traffic": m.traffic, "clients": m.clients, "way": m.way, "round": m.round}
            | m.figures.as_json()
            | {"busy_cores": round(m.busy_cores, 2)}
            for m in measured
        ],
    }


def _medians(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    cells = dict.fromkeys((m.traffic, m.clients, m.way) for m in measured)
    return [
        {"traffic": traffic, "clients": clients, "way": way}
        | {
            metric: round(_median(measured, traffic, clients, way, metric), 2)
            for metric in _METRICS
        }
        | {"texts_per_cpu_s": round(_per_cpu_s(measured, traffic, clients, way), 1)}
        for traffic, clients, way in cells
    ]


def _ratios(measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    cells = dict.fromkeys((m.traffic, m.clients, m.way) for m in measured if m.way != VECSERVE)
    return [
        {"traffic": traffic, "clients": clients, "triton": way}
        | {metric: _ratio(measured, traffic, clients, way, metric) for metric in _METRICS}
        for traffic, clients, way in cells
        if _values(measured, traffic, clients, VECSERVE, "p50_ms")
    ]


def _judge(measured: Sequence[Measurement], target: Target) -> dict[str, Any] | None:
    """Return a target with what was measured; nothing where that was left out of the run."""
    cell = (target.traffic, target.clients)
    present = [way for way in target.over if _values(measured, *cell, way, target.metric)]
    if not present or not _values(measured, *cell, VECSERVE, target.metric):
        return None
    rival = _leader(measured, target, present)
    ratio = _ratio(measured, *cell, rival, target.metric)
    at_least = target.metric == "throughput_per_s"
    return {
        "traffic": target.traffic,
        "clients": target.clients,
        "metric": target.metric,
        "triton": rival,
        "ratio": ratio,
        "at_least" if at_least else "at_most": target.bound,
        "met": ratio >= target.bound if at_least else ratio <= target.bound,
    }


def _leader(measured: Sequence[Measurement], target: Target, ways: Sequence[str]) -> str:
    cell = (target.traffic, target.clients)
    if target.metric == "p50_ms":
        return min(ways, key=lambda way: _median(measured, *cell, way, "p50_ms"))
    return max(ways, key=lambda way: _median(measured, *cell, way, "throughput_per_s"))


def _ratio(
    measured: Sequence[Measurement], traffic: str, clients: int, way: str, metric: Metric
) -> float:
    """Return the median of the ratios within each round."""
    ours = _values(measured, traffic, clients, VECSERVE, metric)
    theirs = _values(measured, traffic, clients, way, metric)
    return round(median_ratio(ours, theirs), 3)


def _median(
    measured: Sequence[Measurement], traffic: str, clients: int, way: str, metric: Metric
) -> float:
    return statistics.median(_values(measured, traffic, clients, way, metric))


def _per_cpu_s(measured: Sequence[Measurement], traffic: str, clients: int, way: str) -> float:
    cell = (traffic, clients, way)
    return statistics.median(
        m.figures.throughput_per_s / m.busy_cores
        for m in measured
        if (m.traffic, m.clients, m.way) == cell
    )


def _values(
    measured: Sequence[Measurement], traffic: str, clients: int, way: str, metric: Metric
) -> list[float]:
    return [
        getattr(m.figures, metric)
        for m in measured
        if (m.traffic, m.clients, m.way) == (traffic, clients, way)
    ]

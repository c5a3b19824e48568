"""Which way of searching costs least, and when rows are worth a graph.

Owns the decisions, as pure functions of measured costs and of the index's shape. Must not know
segments, files or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vecserve_server.index.vectors.vector_index import Method

# Costs grow like the logarithm of the rows from here on.
_MEASURED_ROWS = 4096
_GROWTH_PER_DOUBLING = 0.25
_MEASURED_EXPANSION = 64
# What a filter lets through is seldom spread evenly.
_MARGIN = 1.3
_GRAPH_RISK = 1.5
_BREADTH_PER_ROW = 3

TUNED_COUNT = 20
"""Rows that the builder asks a graph for when it looks how broadly it must be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What searching costs on this machine, for one number of dimensions."""

    delta_row_us: float = 0.02
    """Scan of one row that is not sealed."""
    scan_row_us: float = 0.022
    """Scan of one sealed row."""
    gather_row_us: float = 0.08
    """Scan of one sealed row picked from many."""
    graph_us: float = 60.0
    """One search of breadth 64 in a graph of 4 096 rows."""

    def graph_search_us(self, rows: int, expansion: int) -> float:
        """Estimate a search in a graph of so many rows."""
        return self.graph_us * _growth(rows) * expansion / _MEASURED_EXPANSION

    def picking_us(self, picked_rows: int, rows: int) -> float:
        """Estimate a scan of some rows picked from so many."""
        return picked_rows * self.gather_row_us * max(1.0, _growth(rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When to build."""

    first_rows: int = 20_000
    """Fewer rows are scanned: it is as fast, and exact."""
    delta_rows: int = 8_000
    """So many rows beside sealed ones are sealed too."""
    dead_fraction: float = 0.2
    """With so large a part dead, a segment is rewritten."""
    least_dead_rows: int = 1000
    """With fewer dead rows no segment is rewritten."""
    merge_ratio: float = 3.0
    """A segment at most so many times larger than the newer ones together is merged with them."""
    most_runs: int = 16
    """A graph that was extended so often is built anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentShape:
    """What the decision to build sees of one segment."""

    rows: int
    dead: int
    runs: int
    lean: bool = False
    """Too small for calibrated codes, so its graph is not worth extending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Which segments are rewritten together with all rows that are not sealed."""

    segments: tuple[int, ...]
    extends: int | None
    """The one of them whose graph is kept and extended."""
    reason: str


def choose_method(
    *,
    candidates: int,
    sealed_rows: int,
    expansion: int,
    allowed_rows: int | None,
    exact: bool,
    costs: Costs,
    exact_rows: int,
) -> Method:
    """Choose how sealed rows are searched for so many candidates.

    `expansion` is what an unfiltered search needs; `exact_rows` allowed ones are always scanned.
    """
    if not sealed_rows:
        return "scan"
    if allowed_rows is None:
        return "scan" if exact else "graph"
    scan_us = sealed_rows * costs.scan_row_us
    picked_us = costs.picking_us(allowed_rows, sealed_rows)
    exactly: Method = "scan_allowed" if picked_us <= scan_us else "scan"
    if exact or allowed_rows <= exact_rows:
        return exactly
    asked = filtered_count(candidates, allowed_rows, sealed_rows)
    graph_us = _GRAPH_RISK * costs.graph_search_us(sealed_rows, expansion_for(asked, expansion))
    return "graph_allowed" if graph_us < min(scan_us, picked_us) else exactly


def filtered_count(candidates: int, allowed_rows: int, rows: int) -> int:
    """Tell how many rows to take from a graph so that `candidates` pass the filter."""
    return math.ceil(candidates * _MARGIN * max(rows / max(allowed_rows, 1), 1))


def expansion_for(count: int, tuned: int) -> int:
    """Tell how broadly to search a graph for `count` rows; `tuned` is enough for `TUNED_COUNT`.

    The further down in the order of nearness, the more rows a search of the same breadth misses.
    """
    return max(count, tuned + _BREADTH_PER_ROW * max(0, count - TUNED_COUNT))


def measured_thresholds(costs: Costs) -> Thresholds:
    """Place the thresholds where scanning begins to cost more than a graph saves."""
    scanned_at_20_000 = costs.graph_search_us(20_000, _MEASURED_EXPANSION) / costs.delta_row_us
    scanned_at_100_000 = costs.graph_search_us(100_000, _MEASURED_EXPANSION) / costs.delta_row_us
    return Thresholds(
        first_rows=_clamp(1.5 * scanned_at_20_000, 8192, 32768),
        delta_rows=_clamp(0.4 * scanned_at_100_000, 6144, 16384),
    )


def next_build(
    segments: Sequence[SegmentShape], *, delta_rows: int, lost: bool, thresholds: Thresholds
) -> BuildPlan | None:
    """Decide what to build, if anything. `segments` are in the order of their making."""
    rows, dead = sum(s.rows for s in segments), sum(s.dead for s in segments)
    if dead >= max(thresholds.dead_fraction * rows, thresholds.least_dead_rows):
        return BuildPlan(segments=tuple(range(len(segments))), extends=None, reason="dead rows")
    if lost:
        return BuildPlan(segments=(), extends=None, reason="lost segment")
    if delta_rows < (thresholds.delta_rows if segments else thresholds.first_rows):
        return None
    merged: list[int] = []
    gathered = delta_rows
    for number in reversed(range(len(segments))):
        if segments[number].rows > thresholds.merge_ratio * gathered:
            break
        merged.insert(0, number)
        gathered += segments[number].rows - segments[number].dead
    return BuildPlan(
        segments=tuple(merged),
        extends=_extendable(segments, merged, thresholds),
        reason="delta",
    )


def _growth(rows: int) -> float:
    doublings = math.log2(max(rows, 2) / _MEASURED_ROWS)
    return max(1 + _GROWTH_PER_DOUBLING * doublings, 0.25)


def _extendable(
    segments: Sequence[SegmentShape], merged: Sequence[int], thresholds: Thresholds
) -> int | None:
    largest = max(merged, key=lambda number: segments[number].rows, default=None)
    if largest is None:
        return None
    shape = segments[largest]
    mostly_alive = shape.dead <= thresholds.dead_fraction / 2 * shape.rows
    return (
        largest if mostly_alive and shape.runs < thresholds.most_runs and not shape.lean else None
    )


def _clamp(value: float, low: int, high: int) -> int:
    return int(min(max(value, low), high))

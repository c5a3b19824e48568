"""Figures from samples: percentiles, and ratios between what was measured in turns.

Pure. Must not know what was sampled.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

T = TypeVar("T")

PERCENTS: Final = (50, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """The percentiles of some samples, in their unit."""

    p50: float
    p95: float
    p99: float

    def as_json(self, unit: str, digits: int) -> dict[str, float]:
        """Return them as `p50_<unit>` and so on, rounded."""
        return {
            f"p{percent}_{unit}": round(value, digits)
            for percent, value in zip(PERCENTS, (self.p50, self.p95, self.p99), strict=True)
        }


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Interpolate between neighbours, as NumPy does. Raises ValueError where nothing is."""
    p50, p95, p99 = (percentile(samples, percent) for percent in PERCENTS)
    return Percentiles(p50=p50, p95=p95, p99=p99)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Interpolate between neighbours, as NumPy does. Raises ValueError where nothing is."""
    if not len(samples):
        raise ValueError("there are no samples")
    return float(np.percentile(samples, percent))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide each of ours by its neighbour; a last one that has none is left out."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios within each round; what slows a round cancels out.

    Raises ValueError unless both were measured in every round, of which there must be one.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} and {len(theirs)} figures are no pairs")
    return statistics.median(paired_ratios(ours, theirs))


def turned(ways: Sequence[T], number: int) -> list[T]:
    """Return the ways in the order of that round: another one is first in each."""
    at = number % len(ways) if ways else 0
    return [*ways[at:], *ways[:at]]

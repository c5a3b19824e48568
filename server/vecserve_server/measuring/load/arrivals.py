"""When calls arrive that wait for nobody. Pure."""

from __future__ import annotations

import numpy as np


def poisson_arrivals_s(
    rate_per_s: float, seconds: float, random: np.random.Generator
) -> list[float]:
    """Draw the times of a Poisson process that begins at 0, as many as it has on average."""
    gaps_s = random.exponential(1 / rate_per_s, int(rate_per_s * seconds))
    times_s: list[float] = np.cumsum(gaps_s).tolist()
    return times_s

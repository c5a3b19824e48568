"""How long a run takes.

Owns the model and the measuring of its coefficients. The model is pure: a fixed time, a time per
token, and one per pair of tokens in a row, which attention takes. Must not know files.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape

_ROUNDS = 3
_CHANGE_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Seconds of a run: `fixed_s` + tokens × (`token_s` + width × `pair_s`)."""

    fixed_s: float
    token_s: float
    pair_s: float
    change_s: float = 0.0
    """What it takes an engine to change from one shape to another, unless it is specialised."""

    def predict(self, shape: Shape) -> float:
        """Return the seconds that a run of this shape takes."""
        return self.fixed_s + shape.tokens * (self.token_s + shape.width * self.pair_s)


UNMEASURED = CostModel(fixed_s=1.2e-3, token_s=65e-6, pair_s=0.1e-6)
"""The proportions of a small encoder; absolute times don't matter to a plan."""


def fit(seconds: Sequence[tuple[Shape, float]]) -> CostModel:
    """Fit the model to measured runs, by the least relative error.

    No coefficient is negative: those that would be are left out. Needs at least one run.
    """
    rows = np.array([[1.0, shape.tokens, shape.tokens * shape.width] for shape, _ in seconds])
    relative = rows / np.array([taken for _, taken in seconds])[:, None]
    candidates = (
        _solve(relative, kept) for size in (1, 2, 3) for kept in combinations(range(3), size)
    )
    best = min(
        (found for found in candidates if (found >= 0).all()),
        key=lambda found: float(np.abs(relative @ found - 1).mean()),
    )
    return CostModel(fixed_s=float(best[0]), token_s=float(best[1]), pair_s=float(best[2]))


def measure(
    run: Callable[[Shape], None], shapes: Iterable[Shape], clock_s: Callable[[], float]
) -> list[tuple[Shape, float]]:
    """Time each shape; returns the least of a few runs, after one that does not count."""
    seconds = []
    for shape in shapes:
        run(shape)
        taken = []
        for _ in range(_ROUNDS):
            started = clock_s()
            run(shape)
            taken.append(clock_s() - started)
        seconds.append((shape, min(taken)))
    return seconds


def measure_change_s(
    run: Callable[[Shape], None], shapes: Sequence[Shape], clock_s: Callable[[], float]
) -> float:
    """Return how much longer a run takes where the run before had another shape: the median."""
    changes = []
    for _ in range(_CHANGE_ROUNDS):
        for shape in shapes:
            started = clock_s()
            run(shape)
            changed = clock_s()
            run(shape)
            changes.append((changed - started) - (clock_s() - changed))
    return max(0.0, statistics.median(changes))


def measured_shapes(shapes: Iterable[Shape], run_tokens: int) -> list[Shape]:
    """Pick the few shapes to measure: small, medium and full runs of narrow and wide rows.

    The smallest of all where there is none of these.
    """
    wanted = (
        Shape(1, 16),
        Shape(1, 64),
        Shape(2, 32),
        Shape(1, 128),
        Shape(4, 32),
        Shape(8, 32),
        Shape(4, 64),
        Shape(2, 128),
        Shape(1, 256),
    )
    allowed = set(shapes)
    found = [shape for shape in wanted if shape in allowed and shape.tokens <= run_tokens]
    return found or [min(allowed, key=lambda shape: (shape.tokens, shape.rows))]


def _solve(relative: NDArray[np.float64], kept: tuple[int, ...]) -> NDArray[np.float64]:
    found = np.zeros(3)
    found[list(kept)] = np.linalg.lstsq(relative[:, kept], np.ones(len(relative)), rcond=None)[0]
    return found

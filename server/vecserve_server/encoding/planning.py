"""Choose the runs that take the least time.

Owns the search over row widths and groupings, by a given cost. Pure; must not know engines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from vecserve_server.encoding.packing import Row, plan_rows
from vecserve_server.encoding.shapes import Shape

Cost: TypeAlias = Callable[[Shape], float]
"""Seconds that a run of a shape takes."""

_ROW_WIDTHS = (32, 64, 128, 256)
_SLACKS = (0, 16, 32)
"""Tokens by which the row of a long sequence may be too wide, for short ones to fill."""

_AS_CHEAP = 1.01
"""Costs are measured: of plans so close to the cheapest, the one with the least padding wins."""


@dataclass(frozen=True, slots=True)
class Run:
    """Rows that are computed together, in a grid of that shape."""

    rows: Sequence[Row]
    shape: Shape


class RunPlanner:
    """Plan the runs of a batch; built once for a model, as the costs are looked up in tables."""

    def __init__(self, *, shapes: Iterable[Shape], cost: Cost, row_tokens: int) -> None:
        """Take the allowed shapes; `row_tokens` bounds rows that several sequences share."""
        by_cost = sorted(((cost(shape), shape) for shape in shapes), reverse=True)
        self._widths = sorted({shape.width for _, shape in by_cost})
        self._most_rows = max(shape.rows for _, shape in by_cost)
        self._best = [
            _cheapest(by_cost, rows, self._widths) for rows in range(1, self._most_rows + 1)
        ]
        self._row_widths = [width for width in _ROW_WIDTHS if width < row_tokens] + [row_tokens]

    def packed(self, lengths: Sequence[int]) -> list[Run]:
        """Plan rows that sequences share; every index appears once."""
        total = sum(lengths)
        plans = []
        for row_tokens in self._row_widths:
            for slack in _SLACKS:
                rows = plan_rows(lengths, row_tokens, partial(self._room, slack=slack))
                fills = [sum(lengths[index] for index in row) for row in rows]
                plans.append(self._group(rows, fills))
            if row_tokens >= total:
                break
        limit = _AS_CHEAP * min(cost for cost, _ in plans)
        return min((runs for cost, runs in plans if cost <= limit), key=_computed_tokens)

    def padded(self, lengths: Sequence[int]) -> list[Run]:
        """Plan rows of one sequence each; those of similar length run together."""
        return self._group([[index] for index in range(len(lengths))], list(lengths))[1]

    def _room(self, length: int, *, slack: int) -> int:
        place = bisect_left(self._widths, length + slack)
        return self._widths[min(place, len(self._widths) - 1)]

    def _group(self, rows: Sequence[Row], fills: Sequence[int]) -> tuple[float, list[Run]]:
        """Split rows, the fullest first, into runs of the least total cost."""
        order = sorted(range(len(rows)), key=fills.__getitem__, reverse=True)
        needed = [bisect_left(self._widths, fills[row]) for row in order]
        count = len(order)
        # From the end: the least cost of everything from row i on, and how its first run looks.
        costs = [0.0] * (count + 1)
        firsts: list[tuple[int, Shape]] = [(0, Shape(0, 0))] * count
        for start in range(count - 1, -1, -1):
            costs[start] = float("inf")
            for size in range(1, min(self._most_rows, count - start) + 1):
                cost, shape = self._best[size - 1][needed[start]]
                if cost + costs[start + size] < costs[start]:
                    costs[start] = cost + costs[start + size]
                    firsts[start] = (size, shape)
        runs, start = [], 0
        while start < count:
            size, shape = firsts[start]
            runs.append(Run([rows[row] for row in order[start : start + size]], shape))
            start += size
        return costs[0], runs


def _computed_tokens(runs: Sequence[Run]) -> int:
    return sum(run.shape.tokens for run in runs)


def _cheapest(
    by_cost: Sequence[tuple[float, Shape]], rows: int, widths: Sequence[int]
) -> list[tuple[float, Shape]]:
    """Return the cheapest shape that holds `rows` rows of each of the widths."""
    best = [(float("inf"), Shape(0, 0))] * len(widths)
    for cost, shape in by_cost:  # the dearest first, so that the cheapest stays
        if shape.rows >= rows:
            last = bisect_left(widths, shape.width)
            best[: last + 1] = [(cost, shape)] * (last + 1)
    return best

"""Choose the runs that take the least time.

Owns the search over row widths and groupings, by a given cost. Pure; must not know engines.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vecserve_server.domain.shapes import Shape
from vecserve_server.encoding.packing import Row, longest_first, plan_rows

Cost: TypeAlias = Callable[[Shape], float]
"""Seconds that a run of a shape takes."""

_ROW_WIDTHS = (64, 128, 256)
_SLACKS = (0, 16, 32)
"""Tokens by which the row of a long sequence may be too wide, for short ones to fill."""

_NEVER, _NONE = float("inf"), Shape(0, 0)

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
        """Take the allowed shapes; `row_tokens` bounds rows that several sequences share.

        So does the widest shape: there is none to hold a wider row.
        """
        by_cost = sorted(((cost(shape), shape) for shape in shapes), reverse=True)
        self._widths = sorted({shape.width for _, shape in by_cost})
        self._best = [_cheapest(by_cost, width) for width in self._widths]
        """By width, then by rows: the cost of the cheapest shape that holds so many, and it."""
        # The width that a row gets for a sequence, by its length, for each slack.
        self._rooms = [self._rooms_with(slack) for slack in _SLACKS]
        # No row may be wider than any shape, as those of a model for short texts are.
        widest_row = min(row_tokens, self._widths[-1])
        self._row_widths = [width for width in _ROW_WIDTHS if width < widest_row] + [widest_row]

    def packed(self, lengths: Sequence[int]) -> list[Run]:
        """Plan rows that sequences share; every index appears once."""
        total, order = sum(lengths), longest_first(lengths)
        longest = lengths[order[0]] if order else 0
        plans = []
        for row_tokens in self._row_widths:
            for rooms in self._rooms:
                if rooms is not self._rooms[0] and rooms[longest] <= row_tokens:
                    continue  # no row would be any wider for this slack
                rows = plan_rows(lengths, row_tokens, room=rooms.__getitem__, order=order)
                fills = [sum(lengths[index] for index in row) for row in rows]
                plans.append(self._group(rows, fills))
            if row_tokens >= total:
                break
        limit = _AS_CHEAP * min(cost for cost, _ in plans)
        return min((runs for cost, runs in plans if cost <= limit), key=_computed_tokens)

    def padded(self, lengths: Sequence[int]) -> list[Run]:
        """Plan rows of one sequence each; those of similar length run together."""
        return self._group([[index] for index in range(len(lengths))], list(lengths))[1]

    def _rooms_with(self, slack: int) -> list[int]:
        widest = len(self._widths) - 1
        places = (bisect_left(self._widths, n + slack) for n in range(self._widths[widest] + 1))
        return [self._widths[min(place, widest)] for place in places]

    def _group(self, rows: Sequence[Row], fills: Sequence[int]) -> tuple[float, list[Run]]:
        """Split rows, the fullest first, into runs of the least total cost."""
        order = sorted(range(len(rows)), key=fills.__getitem__, reverse=True)
        needed = [bisect_left(self._widths, fills[row]) for row in order]
        count = len(order)
        # From the end: the least cost of everything from row i on, and how its first run looks.
        costs = [0.0] * (count + 1)
        firsts: list[tuple[int, Shape]] = [(0, _NONE)] * count
        for start in range(count - 1, -1, -1):
            least = _NEVER
            for size, (cost, shape) in enumerate(self._best[needed[start]], 1):
                if start + size > count:
                    break
                if cost + costs[start + size] < least:
                    least = cost + costs[start + size]
                    firsts[start] = (size, shape)
            costs[start] = least
        runs, start = [], 0
        while start < count:
            size, shape = firsts[start]
            runs.append(Run([rows[row] for row in order[start : start + size]], shape))
            start += size
        return costs[0], runs


def _computed_tokens(runs: Sequence[Run]) -> int:
    return sum(run.shape.tokens for run in runs)


def _cheapest(by_cost: Sequence[tuple[float, Shape]], width: int) -> list[tuple[float, Shape]]:
    """Return the cheapest shape for 1, 2, … rows of that width, as many as any shape holds."""
    wide_enough = [(cost, shape) for cost, shape in by_cost if shape.width >= width]
    best = [(_NEVER, _NONE)] * max(shape.rows for _, shape in wide_enough)
    for cost, shape in wide_enough:  # the dearest first, so that the cheapest stays
        best[: shape.rows] = [(cost, shape)] * shape.rows
    return best

"""Lay sequences side by side in rows, so that hardly any computed token is padding.

Owns the layout and the arrays that express it. Pure; must not know engines or texts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import TokenIds

Row: TypeAlias = list[int]
"""Numbers of the sequences that share a row, in their order within it."""

Feeds: TypeAlias = dict[str, NDArray[np.int64]]

_PADDING_SEGMENT = -1


def plan_rows(lengths: Sequence[int], row_tokens: int) -> list[Row]:
    """Assign sequences to rows of at most `row_tokens`, best fit, longest first.

    A sequence longer than `row_tokens` gets a row of its own. Every index appears once; at most
    one row is half empty or more. Rows come out longest first sequence first.
    """
    rows: list[Row] = []
    gaps: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        place = bisect_left(gaps, (length,))
        if place < len(gaps):
            gap, row = gaps.pop(place)
            rows[row].append(index)
        else:
            gap, row = row_tokens, len(rows)
            rows.append([index])
        if gap > length:
            insort(gaps, (gap - length, row))
    return rows


def plan_runs(rows: Sequence[Row], lengths: Sequence[int], run_tokens: int) -> list[Sequence[Row]]:
    """Split rows into runs whose area, rows × longest row, is at most `run_tokens`.

    A single row that is larger than `run_tokens` gets a run of its own.
    """
    widths = [sum(lengths[index] for index in row) for row in rows]
    order = sorted(range(len(rows)), key=widths.__getitem__, reverse=True)
    runs: list[Sequence[Row]] = []
    start = 0
    while start < len(order):
        # Widest first, so the first row of a run sets the width of all of its rows.
        size = max(1, run_tokens // widths[order[start]])
        runs.append([rows[row] for row in order[start : start + size]])
        start += size
    return runs


def pack(sequences: Sequence[TokenIds], rows: Sequence[Row]) -> Feeds:
    """Return the feeds `input_ids`, `position_ids`, `segment_ids` int64 [R, L] and `seqs` [N].

    Segment numbers follow the order of `rows`: the vector for `rows[0][0]` comes first. Tokens
    beyond a row's end have segment -1.
    """
    order = list(chain.from_iterable(rows))
    ordered = [sequences[index] for index in order]
    lengths = np.fromiter(map(len, ordered), np.int64, len(ordered))
    ends = lengths.cumsum()
    starts = ends - lengths
    row_sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    first_of_row = row_sizes.cumsum() - row_sizes
    row_starts = starts[first_of_row]
    width = int(np.diff(row_starts, append=ends[-1]).max())
    row_shift = np.arange(len(rows)) * width - row_starts
    tokens = np.arange(ends[-1])
    cells = tokens + (row_shift.repeat(row_sizes)).repeat(lengths)
    shape = (len(rows), width)
    return {
        "input_ids": _scatter(shape, cells, np.concatenate(ordered), fill=0),
        "position_ids": _scatter(shape, cells, tokens - starts.repeat(lengths), fill=0),
        "segment_ids": _scatter(
            shape, cells, np.arange(len(order)).repeat(lengths), fill=_PADDING_SEGMENT
        ),
        "seqs": np.arange(len(order)),
    }


def _scatter(
    shape: tuple[int, int], cells: NDArray[np.int64], values: NDArray[np.int64], *, fill: int
) -> NDArray[np.int64]:
    grid = np.full(shape[0] * shape[1], fill, np.int64)
    grid[cells] = values
    return grid.reshape(shape)

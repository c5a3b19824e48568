"""Lay sequences side by side in rows, so that hardly any computed token is padding.

Owns the layouts and the arrays that express them. Pure; must not know engines, costs or texts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import TokenIds

Row: TypeAlias = list[int]
"""Numbers of the sequences that share a row, in their order within it."""

Arrays: TypeAlias = dict[str, NDArray[np.int64]]

_PADDING_SEGMENT = -1


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Return the indices of the sequences, those of the longest first."""
    return sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)


def plan_rows(
    lengths: Sequence[int],
    row_tokens: int,
    *,
    room: Callable[[int], int] = lambda length: length,
    order: Sequence[int] | None = None,
) -> list[Row]:
    """Assign sequences to rows of at most `row_tokens`, best fit, longest first.

    A sequence for which `room(length)` is more opens a row of that many tokens. Every index appears
    once. Rows come out longest first sequence first. `order` is `longest_first`, where it is known.
    """
    rows: list[Row] = []
    gaps: list[tuple[int, int]] = []
    for index in longest_first(lengths) if order is None else order:
        length = lengths[index]
        place = bisect_left(gaps, (length,))
        if place < len(gaps):
            gap, row = gaps.pop(place)
            rows[row].append(index)
        else:
            gap, row = max(row_tokens, room(length)), len(rows)
            rows.append([index])
        if gap > length:
            insort(gaps, (gap - length, row))
    return rows


def pack(
    sequences: Sequence[TokenIds], rows: Sequence[Row], shape: tuple[int, int] | None = None
) -> Arrays:
    """Return the feeds `input_ids`, `position_ids`, `segment_ids` int64 [R, L] and `seqs` [N].

    Segment numbers follow the order of `rows`: the vector for `rows[0][0]` comes first. Tokens
    that belong to no sequence have segment -1. With a `shape` (R, L), which must hold the rows,
    the grids have that shape, and `seqs` goes on beyond the sequences to one of a few lengths.
    """
    order = list(chain.from_iterable(rows))
    ordered = [sequences[index] for index in order]
    lengths = np.fromiter(map(len, ordered), np.int64, len(ordered))
    ends = lengths.cumsum()
    starts = ends - lengths
    row_sizes = np.fromiter(map(len, rows), np.int64, len(rows))
    row_starts = starts[row_sizes.cumsum() - row_sizes]
    if shape is None:
        shape = (len(rows), int(np.diff(row_starts, append=ends[-1]).max()))
        slots = len(order)
    else:
        slots = _slots(len(order), shape[0] * shape[1])
    row_shift = np.arange(len(rows)) * shape[1] - row_starts
    tokens = np.arange(ends[-1])
    cells = tokens + row_shift.repeat(row_sizes).repeat(lengths)
    segments = np.arange(len(order)).repeat(lengths)
    return {
        "input_ids": _scatter(shape, cells, np.concatenate(ordered), fill=0),
        "position_ids": _scatter(shape, cells, tokens - starts.repeat(lengths), fill=0),
        "segment_ids": _scatter(shape, cells, segments, fill=_PADDING_SEGMENT),
        "seqs": np.arange(slots),
    }


def pad(sequences: Sequence[TokenIds], order: Sequence[int], shape: tuple[int, int]) -> Arrays:
    """Return the feeds `input_ids`, `attention_mask` and `token_type_ids`, int64 of that shape.

    Row i holds sequence `order[i]`; rows beyond them hold one token, as none at all would make
    attention divide by 0.
    """
    ids = np.zeros(shape, np.int64)
    mask = np.zeros(shape, np.int64)
    mask[:, 0] = 1
    for row, index in enumerate(order):
        length = len(sequences[index])
        ids[row, :length] = sequences[index]
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}


def _slots(sequences: int, tokens: int) -> int:
    """Round the number of sequences up to one of four, the largest of which holds any number."""
    return next(slots for part in (8, 4, 2, 1) if (slots := -(-tokens // part)) >= sequences)


def _scatter(
    shape: tuple[int, int], cells: NDArray[np.int64], values: NDArray[np.int64], *, fill: int
) -> NDArray[np.int64]:
    grid = np.full(shape[0] * shape[1], fill, np.int64)
    grid[cells] = values
    return grid.reshape(shape)

"""Choosing the best of many scores, the same way every time.

Owns the order of answers: score, then seq. Pure arithmetic: no state, no chunks.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.index.vectors.vector_index import Neighbours

_ROWS_PER_COLUMN = 64
_DENSE = 16
_SMALLEST = np.float32(1e-30)


class Candidates(NamedTuple):
    """Rows that may be among the best."""

    seqs: NDArray[np.int64]
    """int64 [N]"""
    vectors: NDArray[np.float16]
    """As stored, float16 [N, D]."""


def best_positions(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the positions of the `count` highest of float32 [N], best first, ties by position.

    Minus infinity is never among them, so fewer may come back.
    """
    found = np.flatnonzero(scores >= _threshold(scores, count))
    best = found[np.argsort(-scores[found], kind="stable")[:count]]
    return best[scores[best] > -np.inf]


def are_among(seqs: NDArray[np.int64], allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell of each seq, int64 [N] ascending, whether it is among the ascending `allowed`."""
    mask = np.zeros(len(seqs), np.bool_)
    if not len(seqs):
        return mask
    first, last = np.searchsorted(allowed, (seqs[0], seqs[-1] + 1))
    some = allowed[first:last]
    span = int(seqs[-1] - seqs[0]) + 1
    if span <= _DENSE * len(seqs):
        # A table by seq costs a tenth of a binary search for each.
        table = np.zeros(span, np.bool_)
        table[some - seqs[0]] = True
        return cast("NDArray[np.bool_]", table[seqs - seqs[0]])
    places = np.minimum(np.searchsorted(seqs, some), len(seqs) - 1)
    mask[places[seqs[places] == some]] = True
    return mask


def rank(
    query: NDArray[np.float32], seqs: NDArray[np.int64], vectors: NDArray[np.float16], k: int
) -> Neighbours:
    """Order candidates by their true cosine with the query: the best `k`, ties by seq.

    `query` float32 [D], `seqs` int64 [N], `vectors` float16 [N, D].
    """
    scores = _cosines(query, vectors.astype(np.float32))
    order = np.lexsort((seqs, -scores))[:k]
    return Neighbours(seqs=seqs[order], scores=scores[order])


def _threshold(scores: NDArray[np.float32], count: int) -> np.float32:
    """Return a score that at least `count` of them reach, and not many more do."""
    if len(scores) <= count:
        return np.float32(-np.inf)
    bounds = scores
    columns = len(scores) // _ROWS_PER_COLUMN
    if columns > count:
        # `count` column maxima reach the threshold, so at least `count` scores do; reducing to
        # maxima first is ten times cheaper than selecting among all the scores.
        bounds = scores[: columns * _ROWS_PER_COLUMN].reshape(_ROWS_PER_COLUMN, columns).max(axis=0)
    place = len(bounds) - count
    return np.float32(np.partition(bounds, place)[place])


def _cosines(query: NDArray[np.float32], vectors: Vectors) -> NDArray[np.float32]:
    # Sums along the row, not a matrix product: a row's score must not depend on its neighbours,
    # or equal vectors would not tie.
    unit = query / np.maximum(np.abs(query).max(), _SMALLEST)
    dots = (vectors * unit).sum(axis=1)
    squares = (vectors * vectors).sum(axis=1) * (unit * unit).sum()
    cosines: NDArray[np.float32] = dots / np.sqrt(np.maximum(squares, _SMALLEST))
    return np.clip(cosines, -1, 1)

"""How good vectors are: against each other, against people's judgement, in a search.

Pure. Must not know where vectors come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]

_CUTOFF = 10


def cosines(a: Vectors, b: Vectors) -> Floats:
    """Return row by row cosines, in float64."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a64, b64) / lengths)


def spearman(a: Floats, b: Floats) -> float:
    """Return the rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def search_quality(
    queries: Vectors, products: Vectors, relevant: Sequence[frozenset[int]]
) -> dict[str, float]:
    """Return MRR@10 and Recall@10 (hits over min(10, relevant)) of exact search."""
    best = np.argsort(-(queries @ products.T), axis=1, kind="stable")[:, :_CUTOFF]
    reciprocal, recall = [], []
    for found, wanted in zip(best, relevant, strict=True):
        hits = [rank for rank, place in enumerate(found, start=1) if int(place) in wanted]
        reciprocal.append(1 / hits[0] if hits else 0.0)
        recall.append(len(hits) / min(_CUTOFF, len(wanted)))
    return {"mrr_at_10": float(np.mean(reciprocal)), "recall_at_10": float(np.mean(recall))}


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[inverse], np.float64)

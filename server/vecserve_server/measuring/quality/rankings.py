"""How good vectors and rankings are: against each other, and against people's judgement.

Pure. Must not know where vectors come from.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Key = TypeVar("Key", bound=Hashable)
Id = TypeVar("Id", bound=Hashable)

K: Final = 10
"""Hits that count."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over all queries."""

    mrr: float
    """1 / rank of the first relevant hit among K, 0 if there is none."""
    recall: float
    """Relevant hits among K over how many there could be."""


def quality(found: Mapping[Key, Sequence[Id]], relevant: Mapping[Key, AbstractSet[Id]]) -> Quality:
    """Measure the ids found for each query, best first."""
    reciprocal, recall = 0.0, 0.0
    for query, wanted in relevant.items():
        hits = [row_id in wanted for row_id in found[query][:K]]
        reciprocal += 1 / (hits.index(True) + 1) if any(hits) else 0
        recall += sum(hits) / min(K, len(wanted))
    return Quality(mrr=reciprocal / len(relevant), recall=recall / len(relevant))


def exact_quality(
    asked: Vectors,
    rows: Vectors,
    *,
    row_ids: Sequence[Id],
    relevant: Mapping[Key, AbstractSet[Id]],
) -> Quality:
    """Compare every query, in the order of `relevant`, with every row, without an index."""
    best = np.argsort(-(asked @ rows.T), axis=1, kind="stable")[:, :K]
    found = {
        query: [row_ids[row] for row in hits] for query, hits in zip(relevant, best, strict=True)
    }
    return quality(found, relevant)


def cosines(a: Vectors, b: Vectors) -> Floats:
    """Return row by row cosines, in float64."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray(np.einsum("nd,nd->n", a64, b64) / lengths)


def spearman(a: Floats, b: Floats) -> float:
    """Return the rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[inverse], np.float64)

"""Vectors with the structure of real embeddings, and exact answers to compare with.

Synthetic: many clusters of very unequal size, a power-law spectrum, dimensions of unequal spread, a
mean that is not zero and a few outlying dimensions; half of the queries are new draws, half are
disturbed members. Real: the Chorus products by the default model, if both are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

_ROWS_PER_CLUSTER = 66
_BLOCK_ROWS = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Unit vectors, queries that are not among them, and the cluster of each vector."""

    name: str
    vectors: Vectors
    queries: Vectors
    clusters: Rows


def synthetic(rows: int, dim: int, queries: int, seed: int = 0) -> Dataset:
    """Draw a data set; the same arguments give the same one."""
    random = np.random.default_rng(seed)
    spectrum = np.arange(1, dim + 1) ** -0.35 * random.lognormal(0, 0.3, dim)
    mixing, _ = np.linalg.qr(random.standard_normal((dim, dim)))
    count = max(rows // _ROWS_PER_CLUSTER, 1)
    weights = random.pareto(1.2, count) + 0.05
    centres = random.standard_normal((count, dim))
    spreads = random.uniform(0.35, 0.9, count)
    offset = 0.25 * random.standard_normal(dim)
    offset[random.choice(dim, min(4, dim), replace=False)] += 2.0
    scales = random.lognormal(0, 0.25, dim)

    def draw(clusters: Rows) -> Vectors:
        noise = random.standard_normal((len(clusters), dim)) * spreads[clusters, np.newaxis]
        made = ((centres[clusters] + noise) * spectrum) @ mixing * scales + offset
        return unit(made)

    clusters = random.choice(count, rows, p=weights / weights.sum())
    vectors = np.empty((rows, dim), np.float32)
    for start in range(0, rows, _BLOCK_ROWS):
        vectors[start : start + _BLOCK_ROWS] = draw(clusters[start : start + _BLOCK_ROWS])
    fresh = draw(random.choice(count, queries - queries // 2, p=weights / weights.sum()))
    members = vectors[random.choice(rows, queries // 2)]
    disturbed = unit(members + 0.35 / dim**0.5 * random.standard_normal(members.shape))
    return Dataset(
        name=f"synthetic-{rows}x{dim}",
        vectors=vectors,
        queries=random.permutation(np.vstack([fresh, disturbed])),
        clusters=clusters,
    )


def from_file(path: Path, queries: int, seed: int = 0) -> Dataset:
    """Read float16 or float32 embeddings, [N, D] as .npy; some of them become the queries."""
    vectors = unit(np.load(path, allow_pickle=False))
    order = np.random.default_rng(seed).permutation(len(vectors))
    kept = vectors[order[queries:]]
    return Dataset(
        name=path.stem,
        vectors=kept,
        queries=vectors[order[:queries]],
        clusters=np.argmax(kept @ kept[:: max(len(kept) // 64, 1)].T, axis=1),
    )


def unit(vectors: NDArray[np.generic]) -> Vectors:
    """Scale each vector to length one."""
    wide = vectors.astype(np.float32)
    scaled: Vectors = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return scaled


def exact(
    vectors: Vectors, queries: Vectors, k: int, allowed: Sequence[Rows] | Rows | None = None
) -> list[Rows]:
    """Return the nearest rows of each query by float32 products, among those that are allowed."""
    scores = np.full((len(queries), 0), -np.inf, np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    candidates = np.arange(len(vectors)) if allowed is None else np.asarray(allowed)
    for start in range(0, len(candidates), _BLOCK_ROWS):
        some = candidates[start : start + _BLOCK_ROWS]
        scores = np.hstack([scores, queries @ vectors[some].T])
        rows = np.hstack([rows, np.broadcast_to(some, (len(queries), len(some)))])
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores = np.take_along_axis(scores, best, axis=1)
            rows = np.take_along_axis(rows, best, axis=1)
    return list(rows)


def recall(found: Sequence[Rows], truth: Sequence[Rows]) -> float:
    """Tell which part of the true neighbours was found, on average."""
    parts = [
        len(np.intersect1d(some, true)) / max(len(true), 1)
        for some, true in zip(found, truth, strict=True)
    ]
    return float(np.mean(parts))

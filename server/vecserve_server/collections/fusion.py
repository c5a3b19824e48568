"""One order out of two: dense and lexical candidates fused.

Owns the arithmetic of fusion. Pure: no rows, no index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ReciprocalRank:
    """Each side adds its weight / (rank_constant + rank)."""

    rank_constant: int = 60
    dense: float = 1.0
    lexical: float = 1.0


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Each side adds its weight times its score, scaled to 0 to 1 over its candidates."""

    dense: float
    lexical: float


Fusion: TypeAlias = ReciprocalRank | WeightedSum


@dataclass(frozen=True, slots=True)
class Part:
    """What one side says about a row: its rank there, from 1, and its score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that may become a hit, and why."""

    seq: int
    score: float
    dense: Part | None = None
    lexical: Part | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The rows that one side found, best first."""

    seqs: NDArray[np.int64]
    scores: NDArray[np.floating]

    def parts(self) -> Iterator[tuple[int, Part]]:
        """Yield each row's seq and part."""
        found = zip(self.seqs.tolist(), self.scores.tolist(), strict=True)
        for rank, (seq, score) in enumerate(found, start=1):
            yield seq, Part(rank, score)


def from_dense(found: Ranked) -> list[Candidate]:
    """Take the order and the scores of the dense side."""
    return [Candidate(seq=seq, score=part.score, dense=part) for seq, part in found.parts()]


def from_lexical(found: Ranked) -> list[Candidate]:
    """Take the order and the scores of the lexical side."""
    return [Candidate(seq=seq, score=part.score, lexical=part) for seq, part in found.parts()]


def fuse(dense: Ranked, lexical: Ranked, fusion: Fusion) -> list[Candidate]:
    """Join both sides, best first; equal sums by their lexical ranks, then by seq."""
    dense_parts, lexical_parts = dict(dense.parts()), dict(lexical.parts())
    added: dict[int, float] = dict.fromkeys([*dense_parts, *lexical_parts], 0.0)
    for parts, weight in ((dense_parts, fusion.dense), (lexical_parts, fusion.lexical)):
        for seq, share in _shares(parts, fusion).items():
            added[seq] += weight * share
    candidates = [
        Candidate(seq=seq, score=score, dense=dense_parts.get(seq), lexical=lexical_parts.get(seq))
        for seq, score in added.items()
    ]
    return sorted(candidates, key=_order)


def _order(candidate: Candidate) -> tuple[float, float, int]:
    rank = candidate.lexical.rank if candidate.lexical is not None else math.inf
    return -candidate.score, rank, candidate.seq


def _shares(parts: Mapping[int, Part], fusion: Fusion) -> dict[int, float]:
    if isinstance(fusion, WeightedSum):
        return _scaled(parts)
    return {seq: 1 / (fusion.rank_constant + part.rank) for seq, part in parts.items()}


def _scaled(parts: Mapping[int, Part]) -> dict[int, float]:
    """Scale the scores to 0 to 1; where all are equal, all are 1."""
    scores = [part.score for part in parts.values()]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if high == low:
        return dict.fromkeys(parts, 1.0)
    return {seq: (part.score - low) / (high - low) for seq, part in parts.items()}

"""One order out of two: dense and lexical candidates fused.

Owns the arithmetic of fusion. Pure: no rows, no index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.searching import Fusion, WeightedSum


@dataclass(frozen=True, slots=True)
class SideScore:
    """What one side says about a row: its rank there, from 1, and its score."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that may become a hit, and why."""

    seq: int
    score: float
    dense: SideScore | None = None
    lexical: SideScore | None = None


class Ranked(Protocol):
    """The rows that one side found, best first."""

    @property
    def seqs(self) -> NDArray[np.int64]:
        """Int64 [N]."""
        ...

    @property
    def scores(self) -> NDArray[Any]:
        """Floats [N]."""
        ...


def from_dense(found: Ranked) -> list[Candidate]:
    """Take the order and the scores of the dense side."""
    return [Candidate(seq=seq, score=part.score, dense=part) for seq, part in _sides(found)]


def from_lexical(found: Ranked) -> list[Candidate]:
    """Take the order and the scores of the lexical side."""
    return [Candidate(seq=seq, score=part.score, lexical=part) for seq, part in _sides(found)]


def fuse(dense: Ranked, lexical: Ranked, fusion: Fusion) -> list[Candidate]:
    """Join both sides, best first; equal sums by their lexical ranks, then by seq."""
    dense_parts, lexical_parts = dict(_sides(dense)), dict(_sides(lexical))
    added: dict[int, float] = dict.fromkeys([*dense_parts, *lexical_parts], 0.0)
    for parts, weight in ((dense_parts, fusion.dense), (lexical_parts, fusion.lexical)):
        for seq, share in _shares(parts, fusion).items():
            added[seq] += weight * share
    candidates = [
        Candidate(seq=seq, score=score, dense=dense_parts.get(seq), lexical=lexical_parts.get(seq))
        for seq, score in added.items()
    ]
    return sorted(candidates, key=_order)


def _sides(found: Ranked) -> Iterator[tuple[int, SideScore]]:
    """Yield each row's seq with what the side says about it."""
    rows = zip(found.seqs.tolist(), found.scores.tolist(), strict=True)
    for rank, (seq, score) in enumerate(rows, start=1):
        yield seq, SideScore(rank, score)


def _order(candidate: Candidate) -> tuple[float, float, int]:
    rank = candidate.lexical.rank if candidate.lexical is not None else math.inf
    return -candidate.score, rank, candidate.seq


def _shares(parts: Mapping[int, SideScore], fusion: Fusion) -> dict[int, float]:
    if isinstance(fusion, WeightedSum):
        return _scaled(parts)
    return {seq: 1 / (fusion.rank_constant + part.rank) for seq, part in parts.items()}


def _scaled(parts: Mapping[int, SideScore]) -> dict[int, float]:
    """Scale the scores to 0 to 1; where all are equal, all are 1."""
    scores = [part.score for part in parts.values()]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if high == low:
        return dict.fromkeys(parts, 1.0)
    return {seq: (part.score - low) / (high - low) for seq, part in parts.items()}

"""From the nearest rows of a query to a label with a confidence.

Owns the vote. Pure; must not know where neighbours come from.

Each neighbour votes for its label with the weight exp((cosine - 1) / temperature). One more vote,
as heavy as that of a neighbour at `scope_cosine`, goes to none of the labels: it is what keeps
the confidence low where all neighbours are far. A label's confidence is its share of all votes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """How votes are weighed; the defaults are measured, see docs/BENCHMARKS.md."""

    temperature: float
    scope_cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How well one label fits; `confidence` is 0 to 1, all labels together at most 1."""

    label: str
    confidence: float


def vote(neighbours: Iterable[tuple[str, float]], ballot: Ballot) -> list[LabelScore]:
    """Count the votes of (label, cosine); best first, equal ones by label."""
    weights: dict[str, float] = {}
    for label, cosine in neighbours:
        weights[label] = weights.get(label, 0.0) + _weight(cosine, ballot)
    total = sum(weights.values()) + _weight(ballot.scope_cosine, ballot)
    scores = [
        LabelScore(label=label, confidence=weight / total) for label, weight in weights.items()
    ]
    return sorted(scores, key=lambda score: (-score.confidence, score.label))


def _weight(cosine: float, ballot: Ballot) -> float:
    return math.exp((cosine - 1) / ballot.temperature)

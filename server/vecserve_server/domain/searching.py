"""What a search is asked for, and what it answers.

Owns plain, frozen data. Must not know how rows are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from vecserve_server.domain.conditions import Condition
from vecserve_server.domain.rows import Hit, Json
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import RequestError


class Mode(StrEnum):
    """How rows are found."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


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
"""How the dense and the lexical side become one order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the answers to all queries of a call should be."""

    k: int
    mode: Mode = Mode.DENSE
    min_score: float | None = None
    with_payload: bool = True
    condition: Condition | None = None
    exact: bool = False
    group_by: str = ""
    """Dotted payload field of which each value may come once. Empty: no grouping."""
    fusion: Fusion = field(default_factory=ReciprocalRank)
    explain: bool = False
    with_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryHits:
    """The hits of one query, best first, and how they came about if that was asked for."""

    hits: Sequence[Hit]
    explanation: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The hits of each query that could be answered, an error for each other one, by place."""

    answers: Mapping[int, QueryHits]
    errors: Mapping[int, RequestError] = field(default_factory=dict)
    timings: Timings

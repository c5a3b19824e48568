"""What a search asks for.

Owns the client's nouns of searching. Must not know gRPC or how anything travels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from vecserve_client.conditions import Where
from vecserve_client.types import Vectors

Mode: TypeAlias = Literal["dense", "lexical", "hybrid"]
"""How rows are found: by the cosine of vectors, by words (BM25), or by both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for: one of `text`, `vector` and `row_ids`.

    `row_ids` asks for rows like these, which are not among the hits. `words` is what the lexical
    side looks for where that is not the text.
    """

    text: str | None = None
    vector: Vectors | None = None
    row_ids: tuple[str, ...] = ()
    words: str = ""


AnyQuery: TypeAlias = str | Vectors | Query
"""A text, a vector float [D], or a `Query`."""


@dataclass(frozen=True, slots=True)
class ReciprocalRank:
    """Fuse by ranks: each side adds its weight / (rank_constant + rank)."""

    rank_constant: int = 60
    dense: float = 1.0
    lexical: float = 1.0


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Fuse by scores: each side adds its weight times its score, scaled to 0 to 1."""

    dense: float
    lexical: float


class SearchOptions(TypedDict, total=False):
    """Options of a search, as keyword arguments.

    See `vecserve.v1.SearchOptions` for the limits.
    """

    k: int
    """Hits to return; default 10."""
    mode: Mode
    """Default "dense"."""
    where: Where | None
    """Return only rows that match."""
    min_score: float | None
    """Leave out hits with a lower score."""
    group_by: str
    """Return only the best hit for each value of this payload field."""
    fusion: ReciprocalRank | WeightedSum
    """How mode "hybrid" joins its sides; default `ReciprocalRank()`."""
    exact: bool
    """Compare with every row."""
    include_payload: bool
    """Default True."""
    with_text: bool
    """Fill `Hit.text`; default False."""
    explain: bool
    """Fill `SearchResult.explain`."""

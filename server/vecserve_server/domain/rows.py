"""A row, before it is written, as it is stored and as a search finds it.

Owns plain, frozen data. Must not know protocols, files or indexes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.inputs import Reference
from vecserve_server.domain.vectors import Vectors

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

Payload: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a row's vector was made of, and how it was embedded.

    A text is kept itself; of anything else the reference is kept.
    """

    text: str = ""
    reference: Reference | None = None
    prompt_name: str = ""
    prompt_text: str = ""
    truncate: str = ""
    """The end that a text loses that is too long: `left` or `right`; empty: as the model says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """A row to write: `vector` is float32 [D] with norm 1."""

    id: str
    vector: Vectors
    payload_json: str
    """A JSON object, UTF-8, already validated."""
    source: Source | None = None
    """None if the caller gave a vector, or the collection keeps no texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as stored: `vector` is float16 [D], or None when it was not asked for."""

    seq: int
    id: str
    vector: NDArray[np.float16] | None
    payload_json: str
    source: Source | None = None
    """None when it was not asked for, or the row keeps none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of a search; `score` is the true cosine in [-1, 1], BM25, or both fused."""

    id: str
    seq: int
    score: float
    payload_json: str | None
    text: str | None = None
    """None when it was not asked for, or the row keeps none."""

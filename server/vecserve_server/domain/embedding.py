"""How inputs are to be embedded, and what comes of it.

Owns plain, frozen data. Must not know models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.vectors import ModelRef, Vectors
from vecserve_server.errors import RequestError

Truncate: TypeAlias = Literal["right", "left", "error"]
"""Which end of an input is cut off that is too long, or that none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How to embed."""

    prompt_name: str = ""
    prompt_text: str = ""
    dimensions: int = 0
    normalise: bool | None = None
    """Whether vectors get length 1; as the model is configured when None."""
    truncate: Truncate | None = None
    """Where inputs are cut that are too long; as the model is configured when None."""
    field: str = "options"
    """The field that they stand in, for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What an embed call got.

    `vectors` is float32 [N, D] with rows of zeros where `errors` has the index; `tokens` and
    `total_tokens` count what was encoded and what the whole input has.
    """

    model: ModelRef
    vectors: Vectors
    tokens: Sequence[int]
    total_tokens: Sequence[int]
    errors: Mapping[int, RequestError]
    timings: Timings

"""Vectors, token ids, and which weights made them.

Owns their types. Must not know how they are computed, kept or compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""Row vectors, float32 [N, D]."""

Codes: TypeAlias = NDArray[np.int8]
"""Quantised row vectors, int8 [N, D]."""

TokenIds: TypeAlias = NDArray[np.int64]
"""The token ids of one sequence, special tokens included, int64 [T]."""

Norms: TypeAlias = NDArray[np.float32]
"""Lengths of vectors, float32 [N]."""


class Encodings(NamedTuple):
    """Unit vectors [N, D] and the lengths [N] that they had before they were scaled."""

    vectors: Vectors
    norms: Norms


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """Which weights made a vector: vectors compare only within one `ModelRef`."""

    name: str
    version: str
    digest: str
    """Hex sha256 of the model file that runs; of the files' digests where there are two."""

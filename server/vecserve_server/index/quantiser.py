"""Float vectors to int8 codes.

Owns the code's definition, which has a versioned name because stored indexes depend on it. Must
not know indexes or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vecserve_server.domain import Codes, Vectors

_LARGEST_CODE = 127.0
# Keeps the scale finite; a vector below it is zero for all purposes.
_SMALLEST_PEAK = 1e-30


@dataclass(frozen=True, slots=True)
class MaxAbsQuantiser:
    """Scale each vector by its own largest component: no calibration, order of cosines kept."""

    name: ClassVar[str] = "max-abs-int8-v1"

    def encode(self, vectors: Vectors) -> Codes:
        """Encode finite float32 [N, D] as int8 [N, D] in [-127, 127]; a zero vector gives zeros."""
        peaks = np.maximum(vectors.max(axis=1, initial=0.0), -vectors.min(axis=1, initial=0.0))
        scales = np.float32(_LARGEST_CODE) / np.maximum(peaks, np.float32(_SMALLEST_PEAK))
        scaled = vectors * scales[:, np.newaxis]
        codes: Codes = np.rint(scaled, out=scaled).astype(np.int8)
        return codes

"""What attention loses where its weights become 8-bit codes.

Owns the arithmetic. Pure; must not know graphs or engines. Weights have one range, from 0 to 1, as
some tokens take nearly all from one other; over hundreds of tokens most weights are smaller than a
step of that range, and what they stood for is lost.
"""

from __future__ import annotations

import numpy as np

from vecserve_server.domain import Vectors
from vecserve_server.export.int8 import STEPS


def coding_error(query: Vectors, key: Vectors, value: Vectors, *, heads: int) -> float:
    """Return the mean square of the error over that of the result, for one text; all [T, K]."""
    lost, whole = 0.0, 0.0
    parts = (np.split(states, heads, axis=1) for states in (query, key, value))
    for of_query, of_key, of_value in zip(*parts, strict=True):  # a head at a time: T by T is large
        weights = _softmax(of_query @ of_key.T / np.sqrt(of_query.shape[1]))
        error = (np.rint(weights * STEPS) / STEPS - weights) @ of_value
        lost += float(np.square(error).sum())
        whole += float(np.square(weights @ of_value).sum())
    return lost / whole if whole else 0.0


def _softmax(scores: Vectors) -> Vectors:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

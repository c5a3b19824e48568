"""How floats become int8 codes.

Owns the arithmetic: int8 weights with one scale per output channel, uint8 activations with one
fixed range, and smoothing between the two (SmoothQuant, Xiao et al. 2023). Pure; must not know
graphs or engines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors

LEVELS = 127
"""Largest magnitude of a weight's code."""

STEPS = 255
"""Steps of an activation's range."""

SMALLEST = 1e-4
"""Below this a magnitude counts as this: a channel that was never seen must not divide by 0."""

_SMOOTHING = 0.75
_TINY = 1e-9


def smoothing_factors(
    low: NDArray[np.float32], high: NDArray[np.float32], weight: Vectors
) -> NDArray[np.float32]:
    """Return what each input channel [K] is divided by and its weights [N, K] are multiplied by.

    The product is unchanged; the range of outlier channels moves over to the weights, which have a
    scale per output channel to absorb it. `low` and `high` [K] are the channels' extremes.
    """
    inputs = np.maximum(np.maximum(-low, high), SMALLEST) ** _SMOOTHING
    outputs = np.maximum(np.abs(weight).max(axis=0), SMALLEST) ** (1 - _SMOOTHING)
    factors = inputs / outputs
    return np.asarray(factors / np.median(factors), np.float32)


def code_range(low: float, high: float) -> tuple[float, float]:
    """Widen a range to include 0, and shift it by less than a step so that 0 is a code."""
    low, high = min(float(low), 0.0), max(float(high), SMALLEST)
    step = (high - low) / STEPS
    zero = round(-low / step)
    return -zero * step, (STEPS - zero) * step


def rounded(x: Vectors, low: float, high: float) -> Vectors:
    """Return x as it is after quantisation to the codes of a range."""
    step = (high - low) / STEPS
    codes = np.clip(np.rint((x - low) / step), 0, STEPS)
    return np.asarray(codes * step + low, np.float32)


def quantise_rows(weight: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes [N, K] and scales [N, 1] of weights [N, K]."""
    peak = np.maximum(np.abs(weight).max(axis=1, keepdims=True), _TINY)
    scale = np.asarray(peak / LEVELS, np.float32)
    return np.rint(weight / scale).astype(np.int8), scale

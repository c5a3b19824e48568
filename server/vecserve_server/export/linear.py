"""The linear block in each precision.

Owns how `x @ weight + bias` becomes ONNX. Must not know which layer it serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import Vectors
from vecserve_server.export.graph import CONTRIB_DOMAIN, GraphBuilder, Value

_LEVELS = 127
_SMALLEST = 1e-6
_SMOOTHING = 0.7


class Linear(Protocol):
    """Add a linear block to a graph."""

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        smooth_as: str | None = None,
    ) -> Value:
        """Return `x @ weight + bias` for x [T, K], weight float32 [K, N], bias float32 [N] or none.

        `smooth_as` names a block whose input comes out of a normalisation: a few channels of such
        an input are many times larger than the rest, which int8 has to make up for.
        """
        ...


def float_linear(
    graph: GraphBuilder,
    x: Value,
    weight: Vectors,
    bias: NDArray[np.float32] | None,
    *,
    smooth_as: str | None = None,  # noqa: ARG001 - part of the interface
) -> Value:
    """Multiply in floats, with standard ONNX operators only."""
    rest = () if bias is None else (graph.const(bias),)
    return graph.op("Gemm", x, graph.const(weight), *rest)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Multiply in int8: one scale per token for `x`, one per output channel for `weight`.

    A scale of its own makes each token independent of what shares its batch.
    """

    peaks: Mapping[str, NDArray[np.float32]]
    """Largest magnitude of each input channel [K], by the name of the block to smooth."""

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        smooth_as: str | None = None,
    ) -> Value:
        """See `Linear`."""
        if smooth_as is not None and smooth_as in self.peaks:
            factors = _smoothing_factors(self.peaks[smooth_as], weight)
            x = graph.op("Mul", x, graph.const(1 / factors))
            weight = weight * factors[:, None]
        codes, token_scale = _quantise_tokens(graph, x)
        weight_codes, channel_scale = _quantise_channels(weight)
        product = graph.op(
            "MatMulIntegerToFloat",
            codes,
            graph.const(weight_codes),
            graph.const(np.float32(1)),
            graph.const(channel_scale),
            _zero_point(graph),
            domain=CONTRIB_DOMAIN,
        )
        product = graph.op("Mul", product, token_scale)
        return product if bias is None else graph.op("Add", product, graph.const(bias))


def _smoothing_factors(peaks: NDArray[np.float32], weight: Vectors) -> NDArray[np.float32]:
    """Return what each input channel [K] is divided by and its weights are multiplied by.

    The product is unchanged; the range of the outlier channels moves over to the weights, which
    have a scale per output channel to absorb it (SmoothQuant, Xiao et al. 2023).
    """
    inputs = np.maximum(peaks, _SMALLEST) ** _SMOOTHING
    outputs = np.maximum(np.abs(weight).max(axis=1), _SMALLEST) ** (1 - _SMOOTHING)
    factors = inputs / outputs
    return np.asarray(factors / np.median(factors), np.float32)


def _quantise_channels(weight: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes [K, N] and scales [N]."""
    scale = np.maximum(np.abs(weight).max(axis=0) / _LEVELS, _SMALLEST).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _quantise_tokens(graph: GraphBuilder, x: Value) -> tuple[Value, Value]:
    """Return uint8 codes [T, K] around 128 and scales [T, 1].

    Unsigned around 128 rather than signed: the u8s8 kernel is the fast one on x86.
    """
    axis = graph.const(np.array([1], np.int64))
    peak = graph.op("ReduceMax", graph.op("Abs", x), axis, keepdims=0)
    scale = graph.op("Mul", peak, graph.const(np.float32(1 / _LEVELS)))
    scale = graph.op("Max", scale, graph.const(np.float32(_SMALLEST)))
    zero_points = graph.op("Expand", _zero_point(graph), graph.op("Shape", scale))
    codes = graph.op("QuantizeLinear", x, scale, zero_points, axis=0)
    return codes, graph.op("Unsqueeze", scale, axis)


def _zero_point(graph: GraphBuilder) -> Value:
    return graph.const(np.uint8(128))

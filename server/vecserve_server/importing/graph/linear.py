"""The linear block in each precision.

Owns how `x @ weight + bias` becomes ONNX. Must not know which layer it serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.graph import CONTRIB_DOMAIN, GraphBuilder, Value
from vecserve_server.importing.graph.int8 import STEPS, quantise_rows


class Linear(Protocol):
    """Add a linear block to a graph."""

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        name: str,
    ) -> Value:
        """Return `x @ weight + bias` for x [T, K], weight float32 [K, N], bias float32 [N] or none.

        `name` is the block's own within the model.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCalibration:
    """What was learnt about the input of a linear block, K wide, and its output, N wide."""

    factors: NDArray[np.float32]
    """What each channel of the input is divided by, and its weights are multiplied by: [K]."""
    low: float
    """Lowest value of the divided input."""
    high: float
    """Highest value of the divided input."""
    correction: NDArray[np.float32]
    """What the output lacks on average: [N]."""


def float_linear(
    graph: GraphBuilder,
    x: Value,
    weight: Vectors,
    bias: NDArray[np.float32] | None,
    *,
    name: str,  # noqa: ARG001 - part of the interface
) -> Value:
    """Multiply in floats, with standard ONNX operators only."""
    rest = () if bias is None else (graph.const(bias),)
    return graph.op("Gemm", x, graph.const(weight), *rest)


@dataclass(frozen=True, slots=True)
class Int8Linear:
    """Multiply in int8: one fixed range for `x`, one scale per output channel for `weight`.

    Nothing of another token enters a scale, so each is independent of what shares its batch.
    """

    blocks: Mapping[str, BlockCalibration]
    """By name."""

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        name: str,
    ) -> Value:
        """See `Linear`; raises `ModelError` for a block that was not calibrated."""
        block = self.blocks.get(name)
        if block is None or (len(block.factors), len(block.correction)) != weight.shape:
            raise ModelError(f"{name}: the calibration is that of another architecture")
        step = graph.const(np.float32((block.high - block.low) / STEPS))
        # Unsigned rather than signed: the u8s8 kernel is the fast one on x86.
        zero = graph.const(np.uint8(round(-block.low / (block.high - block.low) * STEPS)))
        divided = graph.op("Mul", x, graph.const(1 / block.factors))
        codes, scale = quantise_rows(weight.T * block.factors)
        shift = block.correction if bias is None else bias + block.correction
        return graph.op(
            "MatMulIntegerToFloat",
            graph.op("QuantizeLinear", divided, step, zero),
            graph.const(codes.T),
            step,
            graph.const(scale[:, 0]),
            zero,
            "",
            graph.const(shift),
            domain=CONTRIB_DOMAIN,
        )

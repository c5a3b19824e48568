"""What follows the token states: pooling, dense layers, and the vector's length.

Owns the head's description and how it becomes ONNX. Must not know files or architectures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.activations import activation
from vecserve_server.importing.graph.blocks import TokenPlaces
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.pooling import POOLING_BY_NAME

EMBEDDING, NORM = "embedding", "norm"
"""The outputs: unit vectors float32 [N, D], and what to multiply them by, float32 [N]."""

_SMALLEST_NORM = np.float32(1e-12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A linear layer over the pooled vector, computed in float32 in every precision."""

    weight: Vectors
    """[outputs, inputs]."""
    bias: NDArray[np.float32] | None
    activation: str


@dataclass(frozen=True, slots=True)
class Normalise:
    """Scale the vector to length 1 between other steps."""


Step: TypeAlias = Dense | Normalise


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Pooling modes, joined in their order, then the steps in theirs."""

    poolings: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    include_prompt: bool = True
    """Whether the tokens of a prompt count in the pooling; else their ids come marked."""
    normalise: bool = True
    """Whether the model's users expect vectors of length 1; the graph is the same either way."""

    def __post_init__(self) -> None:
        """Raise `ModelError` for a pooling mode that is not supported."""
        unknown = [name for name in self.poolings if name not in POOLING_BY_NAME]
        if unknown or not self.poolings:
            supported = ", ".join(POOLING_BY_NAME)
            raise ModelError(f"pooling {unknown} is not supported (supported: {supported})")

    def dim(self, hidden: int) -> int:
        """Return the embedding's width; raises `ModelError` for steps that do not fit."""
        width = hidden * len(self.poolings)
        for step in self.steps:
            if isinstance(step, Dense):
                outputs, inputs = step.weight.shape
                if inputs != width:
                    raise ModelError(f"a Dense module takes {inputs} inputs, it gets {width}")
                width = outputs
        return width


def add_head(
    graph: GraphBuilder, head: Head, places: TokenPlaces, states: Value, *, hidden: int
) -> None:
    """Pool token states [T, hidden] and publish the outputs `embedding` and `norm`."""
    dim = head.dim(hidden)
    pooled = [POOLING_BY_NAME[name](graph, places, states) for name in head.poolings]
    vectors = graph.op("Concat", *pooled, axis=1) if len(pooled) > 1 else pooled[0]
    for step in head.steps:
        match step:
            case Dense():
                vectors = _dense(graph, step, vectors)
            case Normalise():
                vectors, _ = _unit(graph, vectors)
    publish(graph, vectors, dim=dim)


def publish(graph: GraphBuilder, vectors: Value, *, dim: int) -> None:
    """Publish the outputs `embedding` and `norm` of vectors [N, dim]."""
    unit, norm = _unit(graph, vectors)
    flat = graph.op("Squeeze", norm, graph.const(np.array([1], np.int64)))
    graph.output(EMBEDDING, unit, TensorProto.FLOAT, ["N", dim])
    graph.output(NORM, flat, TensorProto.FLOAT, ["N"])


def _unit(graph: GraphBuilder, vectors: Value) -> tuple[Value, Value]:
    """Return the vectors scaled to length 1, and their lengths [N, 1]; zero stays zero."""
    axis = graph.const(np.array([1], np.int64))
    norm = graph.op("ReduceL2", vectors, axis, keepdims=1)
    divisor = graph.op("Max", norm, graph.const(_SMALLEST_NORM))
    return graph.op("Div", vectors, divisor), norm


def _dense(graph: GraphBuilder, step: Dense, vectors: Value) -> Value:
    rest = () if step.bias is None else (graph.const(step.bias),)
    product = graph.op("Gemm", vectors, graph.const(step.weight), *rest, transB=1)
    return activation(graph, step.activation, product)

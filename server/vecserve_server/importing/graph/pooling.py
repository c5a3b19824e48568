"""From token states to one vector per sequence, inside the graph.

Owns the pooling modes. Must not know architectures, nor how the tokens were laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from onnx import TensorProto

from vecserve_server.importing.graph.blocks import TokenPlaces
from vecserve_server.importing.graph.graph import GraphBuilder, Value

_LOWEST = np.finfo(np.float32).min


class Pooling(Protocol):
    """Add a pooling block to a graph."""

    def __call__(self, graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
        """Return [N, D] for token states [T, D]."""
        ...


def mean_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Average the states of each sequence's tokens."""
    member = _weight_one(graph, places)
    totals = graph.op("MatMul", member, states)
    return graph.op("Div", totals, _row_sums(graph, member))


def mean_sqrt_len_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Add the states of each sequence's tokens and divide by the root of their number."""
    member = _weight_one(graph, places)
    totals = graph.op("MatMul", member, states)
    return graph.op("Div", totals, graph.op("Sqrt", _row_sums(graph, member)))


def weighted_mean_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Average the states with weights 1, 2, 3 … along each sequence."""
    position = graph.op("Cast", places.positions, to=TensorProto.FLOAT)
    weight = graph.op("Add", position, graph.const(np.float32(1)))
    weights = graph.op("Mul", _weight_one(graph, places), weight)
    totals = graph.op("MatMul", weights, states)
    return graph.op("Div", totals, _row_sums(graph, weights))


def max_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Take the largest of each component over each sequence's tokens.

    Every token's state is scattered to its sequence; padding goes to a row of its own, dropped
    at the end.
    """
    one = graph.const(np.array([1], np.int64))
    count = graph.op("Shape", places.sequences)
    padding = graph.op("Less", places.segments, graph.const(np.int64(0)))
    target = graph.op("Where", padding, count, places.segments)
    width = graph.op("Shape", states, start=1)
    shape = graph.op("Concat", graph.op("Add", count, one), width, axis=0)
    lowest = graph.op("Expand", graph.const(np.array(_LOWEST)), shape)
    index = graph.op("Unsqueeze", target, one)
    largest = graph.op("ScatterND", lowest, index, states, reduction="max")
    zero = graph.const(np.array([0], np.int64))
    return graph.op("Slice", largest, zero, count, zero)


def cls_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Take the state of each sequence's first token."""
    member = graph.op("Cast", _membership(graph, places), to=TensorProto.INT32)
    first = graph.op("ArgMax", member, axis=1, keepdims=0)
    return graph.op("Gather", states, first, axis=0)


def last_token_pooling(graph: GraphBuilder, places: TokenPlaces, states: Value) -> Value:
    """Take the state of each sequence's last token."""
    member = graph.op("Cast", _membership(graph, places), to=TensorProto.INT32)
    last = graph.op("ArgMax", member, axis=1, keepdims=0, select_last_index=1)
    return graph.op("Gather", states, last, axis=0)


def _membership(graph: GraphBuilder, places: TokenPlaces) -> Value:
    """Return which token [T] belongs to which sequence [N], boolean [N, T]."""
    sequences = graph.op("Unsqueeze", places.sequences, graph.const(np.array([1], np.int64)))
    segments = graph.op("Unsqueeze", places.segments, graph.const(np.array([0], np.int64)))
    return graph.op("Equal", sequences, segments)


def _weight_one(graph: GraphBuilder, places: TokenPlaces) -> Value:
    return graph.op("Cast", _membership(graph, places), to=TensorProto.FLOAT)


def _row_sums(graph: GraphBuilder, weights: Value) -> Value:
    return graph.op("ReduceSum", weights, graph.const(np.array([1], np.int64)), keepdims=1)


POOLING_BY_NAME: Mapping[str, Pooling] = MappingProxyType(
    {
        "cls": cls_pooling,
        "max": max_pooling,
        "mean": mean_pooling,
        "mean_sqrt_len": mean_sqrt_len_pooling,
        "weightedmean": weighted_mean_pooling,
        "lasttoken": last_token_pooling,
    }
)
"""Every pooling mode that the exporter can write, in the order in which several are joined."""

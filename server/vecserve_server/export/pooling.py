"""From token states to one vector per sequence, inside the graph.

Owns the pooling modes. A sequence never straddles rows, so its tokens are adjacent.
Must not know architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np
from onnx import TensorProto

from vecserve_server.export.blocks import PackedRows
from vecserve_server.export.graph import GraphBuilder, Value


class Pooling(Protocol):
    """Add a pooling block to a graph."""

    def __call__(self, graph: GraphBuilder, rows: PackedRows, states: Value) -> Value:
        """Return [N, D] for token states [T, D]."""
        ...


def mean_pooling(graph: GraphBuilder, rows: PackedRows, states: Value) -> Value:
    """Average the states of each sequence's tokens."""
    member = graph.op("Cast", _membership(graph, rows), to=TensorProto.FLOAT)
    totals = graph.op("MatMul", member, states)
    counts = graph.op("ReduceSum", member, graph.const(np.array([1], np.int64)), keepdims=1)
    return graph.op("Div", totals, counts)


def cls_pooling(graph: GraphBuilder, rows: PackedRows, states: Value) -> Value:
    """Take the state of each sequence's first token."""
    member = graph.op("Cast", _membership(graph, rows), to=TensorProto.INT32)
    first = graph.op("ArgMax", member, axis=1, keepdims=0)
    return graph.op("Gather", states, first, axis=0)


def l2_normalise(graph: GraphBuilder, vectors: Value) -> Value:
    """Scale each vector [N, D] to norm 1."""
    return graph.op("LpNormalization", vectors, axis=1, p=2)


def _membership(graph: GraphBuilder, rows: PackedRows) -> Value:
    """Return which token [T] belongs to which sequence [N], boolean [N, T]."""
    sequences = graph.op("Unsqueeze", rows.sequences, graph.const(np.array([1], np.int64)))
    segments = graph.op("Unsqueeze", rows.segments, graph.const(np.array([0], np.int64)))
    return graph.op("Equal", sequences, segments)


POOLING_BY_NAME: Mapping[str, Pooling] = MappingProxyType(
    {"mean": mean_pooling, "cls": cls_pooling}
)
"""Every pooling mode that the exporter can write."""

"""The blocks that transformer encoders share, over rows of packed sequences.

Owns the packed inputs, attention confined to a sequence and normalisation. Must not
know any one architecture or checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from vecserve_server.importing.graph.graph import GraphBuilder, Value

_MASKED = -1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlaces:
    """Where each of T tokens stands among N sequences."""

    positions: Value
    """Position of each token within its own sequence, int64 [T]."""
    segments: Value
    """Number of the sequence that a token belongs to, -1 for padding; int64 [T]."""
    sequences: Value
    """The numbers 0 to N-1, int64 [N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRows:
    """The packed inputs, as the blocks use them; T = R × L tokens."""

    token_ids: Value
    """int64 [T]."""
    places: TokenPlaces
    position_rows: Value
    """Position of each token within its own sequence, int64 [R, L]."""
    attention_bias: Value
    """0 between tokens of one sequence, hugely negative elsewhere; float32 [R, 1, L, L]."""
    row_shape: Value
    """The int64 pair (R, L)."""


def packed_rows(graph: GraphBuilder) -> PackedRows:
    """Declare the inputs `input_ids`, `position_ids`, `segment_ids` [R, L] and `seqs` [N]."""
    ids, positions, segments = (
        graph.input(name, TensorProto.INT64, ["R", "L"])
        for name in ("input_ids", "position_ids", "segment_ids")
    )
    sequences = graph.input("seqs", TensorProto.INT64, ["N"])
    flat = graph.const(np.array([-1], np.int64))
    return PackedRows(
        token_ids=graph.op("Reshape", ids, flat),
        places=TokenPlaces(
            positions=graph.op("Reshape", positions, flat),
            segments=graph.op("Reshape", segments, flat),
            sequences=sequences,
        ),
        position_rows=positions,
        attention_bias=_block_diagonal_bias(graph, segments),
        row_shape=graph.op("Shape", ids),
    )


def unmarked(graph: GraphBuilder, rows: PackedRows) -> tuple[PackedRows, TokenPlaces]:
    """Return the rows with plain ids, and the places without the tokens whose ids were marked."""
    marked, ids = plain_ids(graph, rows.token_ids)
    nowhere = graph.const(np.int64(-1))
    segments = graph.op("Where", marked, nowhere, rows.places.segments)
    return replace(rows, token_ids=ids), replace(rows.places, segments=segments)


def plain_ids(graph: GraphBuilder, ids: Value) -> tuple[Value, Value]:
    """Return which ids are marked by their bitwise complement, and all ids without the mark."""
    marked = graph.op("Less", ids, graph.const(np.int64(0)))
    complement = graph.op("Sub", graph.const(np.int64(-1)), ids)
    return marked, graph.op("Max", ids, complement)


def _block_diagonal_bias(graph: GraphBuilder, segments: Value) -> Value:
    allowed = graph.op("Equal", *_by_query_and_key(graph, segments))
    zero, masked = graph.const(np.float32(0)), graph.const(np.float32(_MASKED))
    bias = graph.op("Where", allowed, zero, masked)
    return graph.op("Unsqueeze", bias, graph.const(np.array([1], np.int64)))


def _by_query_and_key(graph: GraphBuilder, rows: Value) -> tuple[Value, Value]:
    """Return [R, L] as [R, L, 1] and as [R, 1, L]."""
    queries = graph.op("Unsqueeze", rows, graph.const(np.array([2], np.int64)))
    keys = graph.op("Unsqueeze", rows, graph.const(np.array([1], np.int64)))
    return queries, keys


def position_distance(graph: GraphBuilder, rows: PackedRows) -> Value:
    """Return key position minus query position, int64 [R, L, L]; meant within a sequence."""
    queries, keys = _by_query_and_key(graph, rows.position_rows)
    return graph.op("Sub", keys, queries)


def sliding_window_bias(graph: GraphBuilder, rows: PackedRows, *, reach: int) -> Value:
    """Return the attention bias that also hides tokens further than `reach` positions away."""
    distance = graph.op("Abs", position_distance(graph, rows))
    near = graph.op("LessOrEqual", distance, graph.const(np.int64(reach)))
    near = graph.op("Unsqueeze", near, graph.const(np.array([1], np.int64)))
    return graph.op("Where", near, rows.attention_bias, graph.const(np.float32(_MASKED)))


def split_in_rows(graph: GraphBuilder, rows: PackedRows, qkv: Value, *, hidden: int) -> list[Value]:
    """Return queries, keys and values [R, L, hidden] of qkv [T, 3 × hidden]."""
    width = graph.const(np.array([hidden], np.int64))
    row_shape = graph.op("Concat", rows.row_shape, width, axis=0)
    parts = graph.ops("Split", qkv, outputs=3, axis=1, num_outputs=3)
    return [graph.op("Reshape", part, row_shape) for part in parts]


def attention(
    graph: GraphBuilder, qkv: list[Value], bias: Value, *, heads: int, hidden: int
) -> Value:
    """Attend: queries, keys, values [R, L, hidden] and a bias [R, 1 or heads, L, L] to [T, hidden].

    The standard operator: faster in ONNX Runtime than its own contrib form and than MatMul and
    Softmax written out.
    """
    attended = graph.op("Attention", *qkv, bias, q_num_heads=heads, kv_num_heads=heads)
    return graph.op("Reshape", attended, graph.const(np.array([-1, hidden], np.int64)))


def layer_norm(
    graph: GraphBuilder,
    x: Value,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    *,
    epsilon: float,
) -> Value:
    """Normalise the last axis of x [T, hidden]."""
    shift = () if bias is None else (graph.const(bias),)
    scale = graph.const(weight)
    return graph.op("LayerNormalization", x, scale, *shift, axis=-1, epsilon=epsilon)

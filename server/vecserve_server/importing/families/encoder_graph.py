"""Assemble an encoder's whole graph: packed rows in, one vector per sequence out.

Owns the graph's outline. Must not know files or any one family.
"""

from __future__ import annotations

import onnx

from vecserve_server.importing.families.families import family_for
from vecserve_server.importing.families.family import EncoderParts, ModelConfigJson, Weights
from vecserve_server.importing.graph.blocks import packed_rows, unmarked
from vecserve_server.importing.graph.graph import GraphBuilder
from vecserve_server.importing.graph.head import Head, add_head
from vecserve_server.importing.graph.linear import Linear


def encoder_graph(
    *,
    config: ModelConfigJson,
    weights: Weights,
    head: Head,
    linear: Linear,
    half: bool = False,
) -> onnx.ModelProto:
    """Build the graph with outputs `embedding` float32 [N, dim], of length 1, and `norm` [N].

    `embedding` × `norm` is the vector as the checkpoint gives it before any normalisation. `half`
    builds the encoder in float16, for GPUs; the head stays in float32. Raises
    `ModelError` for an unsupported architecture or setting, and for a missing or misshapen tensor.
    """
    family = family_for(config)
    graph = GraphBuilder(half=half)
    rows = packed_rows(graph)
    pooled = rows.places
    if not head.include_prompt:
        rows, pooled = unmarked(graph, rows)
    states = family.token_states(
        EncoderParts(graph=graph, rows=rows, config=config, weights=weights, linear=linear)
    )
    add_head(graph, head, pooled, graph.in_float32(states), hidden=family.size(config).hidden)
    return graph.model("packed_encoder")

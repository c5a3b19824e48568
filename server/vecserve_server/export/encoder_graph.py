"""Assemble an encoder's whole graph: packed rows in, one vector per sequence out.

Owns the list of families and the graph's outline. Must not know files.
"""

from __future__ import annotations

import onnx

from vecserve_server.errors import ModelError
from vecserve_server.export.bert import BertFamily
from vecserve_server.export.blocks import packed_rows
from vecserve_server.export.family import Family, ModelConfigJson, Weights
from vecserve_server.export.graph import GraphBuilder
from vecserve_server.export.linear import Linear
from vecserve_server.export.pooling import POOLING_BY_NAME, l2_normalise

FAMILIES: tuple[Family, ...] = (BertFamily(),)
"""Every architecture family that the exporter can build."""


def family_for(architecture: str) -> Family:
    """Return the family that builds `architecture`; raises `ModelError` listing the supported."""
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    supported = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise ModelError(
        f"config.json: architecture {architecture} is not supported (supported: {supported})"
    )


def encoder_graph(
    *,
    config: ModelConfigJson,
    weights: Weights,
    pooling: str,
    linear: Linear,
    normalise: bool = True,
) -> onnx.ModelProto:
    """Build the graph with output `embedding`, float32 [N, hidden].

    Raises `ModelError` for an unsupported architecture, setting or pooling, and for a missing or
    misshapen tensor.
    """
    family = family_for(config.architecture())
    if pooling not in POOLING_BY_NAME:
        supported = ", ".join(POOLING_BY_NAME)
        raise ModelError(f"pooling {pooling!r} is not supported (supported: {supported})")
    graph = GraphBuilder()
    rows = packed_rows(graph)
    states = family.token_states(
        graph=graph, rows=rows, config=config, weights=weights, linear=linear
    )
    vectors = POOLING_BY_NAME[pooling](graph, rows, states)
    vectors = l2_normalise(graph, vectors) if normalise else vectors
    hidden = family.size(config).hidden
    graph.output("embedding", vectors, onnx.TensorProto.FLOAT, ["N", hidden])
    return graph.model("packed_encoder")

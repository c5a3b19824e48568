"""Assemble an encoder's whole graph: packed rows in, one vector per sequence out.

Owns the list of families and the graph's outline. Must not know files.
"""

from __future__ import annotations

import onnx

from vecserve_server.errors import ModelError
from vecserve_server.export.bert import BertFamily
from vecserve_server.export.blocks import packed_rows
from vecserve_server.export.distilbert import DistilBertFamily
from vecserve_server.export.family import EncoderParts, Family, ModelConfigJson, Weights
from vecserve_server.export.graph import GraphBuilder
from vecserve_server.export.head import Head, add_head
from vecserve_server.export.linear import Linear
from vecserve_server.export.modernbert import ModernBertFamily
from vecserve_server.export.mpnet import MPNetFamily
from vecserve_server.export.roberta import RobertaFamily

FAMILIES: tuple[Family, ...] = (
    BertFamily(),
    RobertaFamily(),
    MPNetFamily(),
    DistilBertFamily(),
    ModernBertFamily(),
)
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


def is_supported(config: ModelConfigJson) -> bool:
    """Return whether a family builds the first of the checkpoint's architectures."""
    stated = config.values.get("architectures")
    first = stated[0] if isinstance(stated, list) and stated else None
    return any(first in family.architectures for family in FAMILIES)


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
    family = family_for(config.architecture())
    graph = GraphBuilder(half=half)
    rows = packed_rows(graph)
    states = family.token_states(
        EncoderParts(graph=graph, rows=rows, config=config, weights=weights, linear=linear)
    )
    add_head(graph, head, rows.places, graph.in_float32(states), hidden=family.size(config).hidden)
    return graph.model("packed_encoder")

"""The MPNet family: post-norm layers that share one bias by relative position.

Owns the names of MPNet checkpoints and how a distance becomes a bucket. Must not know pooling,
precision or files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vecserve_server.importing.families.bert import bert_config, bert_shape
from vecserve_server.importing.families.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.importing.families.post_norm import LayerNames, PostNormBuild, post_norm_build
from vecserve_server.importing.graph.blocks import position_distance
from vecserve_server.importing.graph.graph import Value

_LAYER = LayerNames(
    layer="encoder.layer.{}",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_VOCABULARY = 30527
_FIRST_POSITION = 2
_FARTHEST = 128
"""Distances from here on share a bucket."""


class MPNetFamily:
    """Build `MPNetModel` checkpoints, with or without a task head around them."""

    @property
    def class_by_model_type(self) -> Mapping[str, str]:
        """See `Family`."""
        return {"mpnet": "MPNet"}

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        config = bert_config(config, vocab_size=_VOCABULARY)
        places = config.integer("max_position_embeddings")
        return FamilySize(hidden=bert_shape(config).hidden, max_tokens=places - _FIRST_POSITION)

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        config = bert_config(parts.config, vocab_size=_VOCABULARY)
        build = post_norm_build(parts, prefix="mpnet.", shape=bert_shape(config))
        first = parts.graph.const(np.int64(_FIRST_POSITION))
        states = build.embeddings(
            words=("embeddings.word_embeddings.weight", config.integer("vocab_size")),
            positions=(
                "embeddings.position_embeddings.weight",
                config.integer("max_position_embeddings"),
            ),
            token_types=None,
            at=parts.graph.op("Add", parts.rows.places.positions, first),
            norm="embeddings.LayerNorm",
        )
        return build.layers(states, _LAYER, _relative_bias(build, config))


def _relative_bias(build: PostNormBuild, config: ModelConfigJson) -> Value:
    """Add what each head makes of each distance to the attention bias: [R, heads, L, L]."""
    graph = build.graph
    buckets = config.integer("relative_attention_num_buckets", 32)
    bias_by_bucket = build.weights.take(
        "encoder.relative_attention_bias.weight", buckets, build.shape.heads
    )
    distances = np.arange(-_FARTHEST, _FARTHEST + 1)
    bias_by_distance = graph.const(bias_by_bucket[relative_buckets(distances)])
    near = graph.op(
        "Clip",
        position_distance(graph, build.rows),
        graph.const(np.int64(-_FARTHEST)),
        graph.const(np.int64(_FARTHEST)),
    )
    index = graph.op("Add", near, graph.const(np.int64(_FARTHEST)))
    bias = graph.op("Gather", bias_by_distance, index)
    by_head = graph.op("Transpose", bias, perm=[0, 3, 1, 2])
    return graph.op("Add", by_head, build.rows.attention_bias)


def relative_buckets(distances: NDArray[np.int64], buckets: int = 32) -> NDArray[np.int64]:
    """Return the bucket of each distance, key position minus query position.

    Half of the buckets are for keys after the query. Half of each half holds one distance each,
    the rest grow by a constant factor up to `_FARTHEST`. Whatever the size of a checkpoint's
    table, its model uses 32. Computed in float32, as the original rounds at the same places.
    """
    half = buckets // 2
    single = half // 2
    away = np.abs(distances)
    factor = np.log(np.maximum(away, 1).astype(np.float32) / single)
    grown = factor / np.float32(math.log(_FARTHEST / single)) * np.float32(half - single)
    far = np.minimum(single + grown.astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(away < single, away, far)

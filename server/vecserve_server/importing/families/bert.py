"""The BERT family: learned absolute positions, post-norm layers.

Owns the names and the settings of BERT checkpoints. Must not know pooling, precision or files.
"""

from __future__ import annotations

from collections.abc import Mapping

from vecserve_server.errors import ModelError
from vecserve_server.importing.families.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.importing.families.post_norm import (
    LayerNames,
    PostNormBuild,
    PostNormShape,
    post_norm_build,
)
from vecserve_server.importing.graph.graph import Value

BERT_LAYER = LayerNames(
    layer="encoder.layer.{}",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
"""What BERT, and RoBERTa after it, call the parts of a layer."""


class BertFamily:
    """Build `BertModel` checkpoints, with or without a task head around them."""

    @property
    def class_by_model_type(self) -> Mapping[str, str]:
        """See `Family`."""
        return {"bert": "Bert"}

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        config = bert_config(config)
        return FamilySize(
            hidden=bert_shape(config).hidden, max_tokens=config.integer("max_position_embeddings")
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        config = bert_config(parts.config)
        build = post_norm_build(parts, prefix="bert.", shape=bert_shape(config))
        return bert_states(build, config, parts.rows.places.positions)


def bert_config(config: ModelConfigJson, *, vocab_size: int = 30522) -> ModelConfigJson:
    """Return the settings with the defaults that BERT and its relatives share."""
    return config.filled(
        {
            "hidden_act": "gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "type_vocab_size": 2,
            "vocab_size": vocab_size,
        }
    )


def bert_shape(config: ModelConfigJson) -> PostNormShape:
    """Read the dimensions of filled settings.

    Raises `ModelError` for relative positions and for heads that do not divide.
    """
    kind = config.text("position_embedding_type", "absolute")
    if kind != "absolute":
        raise ModelError(
            f"config.json: position_embedding_type {kind!r} is not supported (supported: absolute)"
        )
    hidden, heads = config.divided("hidden_size", "num_attention_heads")
    return PostNormShape(
        layers=config.integer("num_hidden_layers"),
        hidden=hidden,
        inner=config.integer("intermediate_size"),
        heads=heads,
        activation=config.text("hidden_act"),
        epsilon=config.number("layer_norm_eps"),
    )


def bert_states(build: PostNormBuild, config: ModelConfigJson, positions: Value) -> Value:
    """Add embeddings and layers; `positions` [T] index the table of positions."""
    states = build.embeddings(
        words=("embeddings.word_embeddings.weight", config.integer("vocab_size")),
        positions=(
            "embeddings.position_embeddings.weight",
            config.integer("max_position_embeddings"),
        ),
        token_types=("embeddings.token_type_embeddings.weight", config.integer("type_vocab_size")),
        at=positions,
        norm="embeddings.LayerNorm",
    )
    return build.layers(states, BERT_LAYER, build.rows.attention_bias)

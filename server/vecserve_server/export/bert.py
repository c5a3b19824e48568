"""The BERT family: learned absolute positions, post-norm layers.

Owns the names and the settings of BERT checkpoints. Must not know pooling, precision or files.
"""

from __future__ import annotations

from vecserve_server.errors import ModelError
from vecserve_server.export.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.export.graph import Value
from vecserve_server.export.post_norm import (
    LayerNames,
    PostNormBuild,
    PostNormShape,
    post_norm_build,
)

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
    def architectures(self) -> tuple[str, ...]:
        """See `Family`."""
        return ("BertModel", "BertForMaskedLM")

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        return FamilySize(
            hidden=bert_shape(config).hidden, max_tokens=config.integer("max_position_embeddings")
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        build = post_norm_build(parts, prefix="bert.", shape=bert_shape(parts.config))
        return bert_states(build, parts.config, parts.rows.places.positions)


def bert_shape(config: ModelConfigJson) -> PostNormShape:
    """Read the dimensions; raises `ModelError` for relative positions and odd heads."""
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
        epsilon=config.number("layer_norm_eps", 1e-12),
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

"""The DistilBERT family: BERT without token types, under names of its own.

Owns those names. Must not know pooling, precision or files.
"""

from __future__ import annotations

from vecserve_server.export.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.export.graph import Value
from vecserve_server.export.post_norm import (
    LayerNames,
    PostNormShape,
    post_norm_build,
)

_LAYER = LayerNames(
    layer="transformer.layer.{}",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)


class DistilBertFamily:
    """Build `DistilBertModel` checkpoints, with or without a task head around them."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """See `Family`."""
        return ("DistilBertModel", "DistilBertForMaskedLM")

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        return FamilySize(
            hidden=_shape(config).hidden, max_tokens=config.integer("max_position_embeddings")
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        build = post_norm_build(parts, prefix="distilbert.", shape=_shape(parts.config))
        states = build.embeddings(
            words=("embeddings.word_embeddings.weight", parts.config.integer("vocab_size")),
            positions=(
                "embeddings.position_embeddings.weight",
                parts.config.integer("max_position_embeddings"),
            ),
            token_types=None,
            at=parts.rows.places.positions,
            norm="embeddings.LayerNorm",
        )
        return build.layers(states, _LAYER, parts.rows.attention_bias)


def _shape(config: ModelConfigJson) -> PostNormShape:
    hidden, heads = config.divided("dim", "n_heads")
    return PostNormShape(
        layers=config.integer("n_layers"),
        hidden=hidden,
        inner=config.integer("hidden_dim"),
        heads=heads,
        activation=config.text("activation", "gelu"),
        epsilon=1e-12,
    )

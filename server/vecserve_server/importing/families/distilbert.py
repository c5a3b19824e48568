"""The DistilBERT family: BERT without token types, under names of its own.

Owns those names. Must not know pooling, precision or files.
"""

from __future__ import annotations

from collections.abc import Mapping

from vecserve_server.importing.families.family import EncoderParts, FamilySize, ModelConfigJson
from vecserve_server.importing.families.post_norm import LayerNames, PostNormShape, post_norm_build
from vecserve_server.importing.graph.graph import Value

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
    def class_by_model_type(self) -> Mapping[str, str]:
        """See `Family`."""
        return {"distilbert": "DistilBert"}

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        config = _config(config)
        return FamilySize(
            hidden=_shape(config).hidden, max_tokens=config.integer("max_position_embeddings")
        )

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        config = _config(parts.config)
        build = post_norm_build(parts, prefix="distilbert.", shape=_shape(config))
        states = build.embeddings(
            words=("embeddings.word_embeddings.weight", config.integer("vocab_size")),
            positions=(
                "embeddings.position_embeddings.weight",
                config.integer("max_position_embeddings"),
            ),
            token_types=None,
            at=parts.rows.places.positions,
            norm="embeddings.LayerNorm",
        )
        return build.layers(states, _LAYER, parts.rows.attention_bias)


def _config(config: ModelConfigJson) -> ModelConfigJson:
    """Return the settings with their defaults, whichever of their two names they go by."""
    return config.filled(
        {
            "activation": "gelu",
            "dim": 768,
            "hidden_dim": 3072,
            "max_position_embeddings": 512,
            "n_heads": 12,
            "n_layers": 6,
            "vocab_size": 30522,
        },
        aliases={
            "hidden_size": "dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        },
    )


def _shape(config: ModelConfigJson) -> PostNormShape:
    hidden, heads = config.divided("dim", "n_heads")
    return PostNormShape(
        layers=config.integer("n_layers"),
        hidden=hidden,
        inner=config.integer("hidden_dim"),
        heads=heads,
        activation=config.text("activation"),
        epsilon=1e-12,
    )

"""The ModernBERT family: rotary positions, gated feed-forward, local and global attention in turn.

Owns the names and the wiring of ModernBERT checkpoints. Must not know pooling, precision or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.errors import ModelError
from vecserve_server.importing.families.family import (
    EncoderParts,
    FamilySize,
    ModelConfigJson,
    Weights,
)
from vecserve_server.importing.graph.activations import activation
from vecserve_server.importing.graph.blocks import (
    PackedRows,
    attention,
    layer_norm,
    sliding_window_bias,
    split_in_rows,
)
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.linear import Linear

_FULL, _SLIDING = "full_attention", "sliding_attention"
_OLD_THETA_KEY = {_FULL: ("global_rope_theta", 160_000.0), _SLIDING: ("local_rope_theta", 10_000.0)}


class ModernBertFamily:
    """Build `ModernBertModel` checkpoints, with or without a task head around them."""

    @property
    def class_by_model_type(self) -> Mapping[str, str]:
        """See `Family`."""
        return {"modernbert": "ModernBert"}

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        config = _config(config)
        hidden, heads = config.divided("hidden_size", "num_attention_heads")
        if hidden // heads % 2:
            raise ModelError(f"config.json: heads of {hidden // heads} cannot be rotated in pairs")
        return FamilySize(hidden=hidden, max_tokens=config.integer("max_position_embeddings"))

    def token_states(self, parts: EncoderParts) -> Value:
        """See `Family`."""
        config = _config(parts.config)
        build = _ModernBertBuild(
            graph=parts.graph,
            rows=parts.rows,
            config=config,
            weights=parts.weights.under(("model.",), "embeddings.tok_embeddings.weight"),
            linear=parts.linear,
            hidden=self.size(config).hidden,
        )
        states = build.embeddings()
        kinds = _layer_kinds(config)
        views = {kind: build.view(kind) for kind in sorted(set(kinds))}
        for i, kind in enumerate(kinds):
            states = build.layer(states, i, views[kind])
        return build.norm(states, "final_norm")


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What the layers of one kind share: whom a token sees, and the rotation by position."""

    bias: Value
    """[R, 1, L, L]."""
    cos: Value
    """Of the angle of each pair of components, by token: [R, L, pairs]."""
    sin: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class _ModernBertBuild:
    """One build: the graph so far, and the weights that go into it."""

    graph: GraphBuilder
    rows: PackedRows
    config: ModelConfigJson
    weights: Weights
    linear: Linear
    hidden: int

    def embeddings(self) -> Value:
        vocabulary = self.config.integer("vocab_size")
        words = self.weights.take("embeddings.tok_embeddings.weight", vocabulary, self.hidden)
        states = self.graph.op("Gather", self.graph.const(words), self.rows.token_ids)
        return self.norm(states, "embeddings.norm")

    def view(self, kind: str) -> _View:
        bias = self.rows.attention_bias
        if kind == _SLIDING:
            reach = self.config.integer("local_attention") // 2
            bias = sliding_window_bias(self.graph, self.rows, reach=reach)
        angles = self._angles(_theta(self.config, kind))
        tables = [self.graph.const(f(angles).astype(np.float32)) for f in (np.cos, np.sin)]
        cos, sin = (self.graph.op("Gather", table, self.rows.position_rows) for table in tables)
        return _View(bias=bias, cos=cos, sin=sin)

    def layer(self, states: Value, number: int, view: _View) -> Value:
        name = f"layers.{number}"
        # The embeddings are normalised already, so the first layer has no norm of its own.
        normed = self.norm(states, f"{name}.attn_norm") if number else states
        states = self.graph.op("Add", states, self._attention(normed, f"{name}.attn", view))
        normed = self.norm(states, f"{name}.mlp_norm")
        return self.graph.op("Add", states, self._feed_forward(normed, f"{name}.mlp"))

    def norm(self, x: Value, name: str) -> Value:
        scale = self.weights.take(f"{name}.weight", self.hidden)
        with_bias = self.config.flag("norm_bias", default=False)
        shift = self.weights.take(f"{name}.bias", self.hidden) if with_bias else None
        epsilon = self.config.number("norm_eps")
        return layer_norm(self.graph, x, scale, shift, epsilon=epsilon)

    def _attention(self, states: Value, name: str, view: _View) -> Value:
        hidden, heads = self.hidden, self.config.integer("num_attention_heads")
        qkv = self._linear(states, f"{name}.Wqkv", hidden, 3 * hidden, bias="attention_bias")
        query, key, value = split_in_rows(self.graph, self.rows, qkv, hidden=hidden)
        query, key = (self._rotate(part, view, heads) for part in (query, key))
        parts = [query, key, value]
        mixed = attention(self.graph, parts, view.bias, heads=heads, hidden=hidden)
        return self._linear(mixed, f"{name}.Wo", hidden, hidden, bias="attention_bias")

    def _rotate(self, x: Value, view: _View, heads: int) -> Value:
        return self.graph.op(
            "RotaryEmbedding", x, view.cos, view.sin, num_heads=heads, interleaved=0
        )

    def _feed_forward(self, states: Value, name: str) -> Value:
        inner = self.config.integer("intermediate_size")
        wide = self._linear(states, f"{name}.Wi", self.hidden, 2 * inner, bias="mlp_bias")
        passed, gate = self.graph.ops("Split", wide, outputs=2, axis=1, num_outputs=2)
        passed = activation(self.graph, self.config.text("hidden_activation"), passed)
        gated = self.graph.op("Mul", passed, gate)
        return self._linear(gated, f"{name}.Wo", inner, self.hidden, bias="mlp_bias")

    def _linear(self, x: Value, name: str, inputs: int, outputs: int, *, bias: str) -> Value:
        """Add a linear block; the setting `bias` says whether it has one."""
        weight = self.weights.take(f"{name}.weight", outputs, inputs).T
        with_bias = self.config.flag(bias, default=False)
        shift = self.weights.take(f"{name}.bias", outputs) if with_bias else None
        return self.linear(self.graph, x, weight, shift, name=name)

    def _angles(self, theta: float) -> NDArray[np.float32]:
        """Return the angle of each pair of components at each position, [positions, pairs]."""
        width = self.hidden // self.config.integer("num_attention_heads")
        places = self.config.integer("max_position_embeddings")
        # In float32, as the original computes them.
        speed = 1 / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / width)
        return np.asarray(np.outer(np.arange(places, dtype=np.float32), speed), np.float32)


def _config(config: ModelConfigJson) -> ModelConfigJson:
    """Return the settings with their defaults."""
    return config.filled(
        {
            "hidden_activation": "gelu",
            "hidden_size": 768,
            "intermediate_size": 1152,
            "local_attention": 128,
            "max_position_embeddings": 8192,
            "norm_eps": 1e-5,
            "num_attention_heads": 12,
            "num_hidden_layers": 22,
            "vocab_size": 50368,
        }
    )


def _layer_kinds(config: ModelConfigJson) -> list[str]:
    count = config.integer("num_hidden_layers")
    kinds = config.values.get("layer_types")
    if kinds is None:
        every = config.integer("global_attn_every_n_layers", 3)
        return [_SLIDING if i % every else _FULL for i in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count or not set(kinds) <= {_FULL, _SLIDING}:
        raise ModelError(
            f"config.json: layer_types must name {_FULL} or {_SLIDING} for {count} layers"
        )
    return [str(kind) for kind in kinds]


def _theta(config: ModelConfigJson, kind: str) -> float:
    """Return the base of the rotation's wavelengths, from the newer or the older settings."""
    by_kind = config.values.get("rope_parameters")
    if config.values.get("rope_scaling") is not None:
        raise ModelError("config.json: rope_scaling is not supported")
    if by_kind is None:
        return config.number(*_OLD_THETA_KEY[kind])
    settings = by_kind.get(kind) if isinstance(by_kind, dict) else None
    if not isinstance(settings, dict) or settings.get("rope_type", "default") != "default":
        raise ModelError(f"config.json: rope_parameters of {kind} must be of rope_type default")
    return ModelConfigJson(settings).number("rope_theta", _OLD_THETA_KEY[kind][1])

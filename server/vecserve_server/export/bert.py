"""The BERT family: learned absolute positions, post-norm layers.

Owns the names and the wiring of BERT checkpoints. Must not know pooling, precision or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecserve_server.errors import ModelError
from vecserve_server.export.blocks import PackedRows, activation, attention, layer_norm
from vecserve_server.export.family import FamilySize, ModelConfigJson, Weights
from vecserve_server.export.graph import GraphBuilder, Value
from vecserve_server.export.linear import Linear


class BertFamily:
    """Build `BertModel` checkpoints, with or without a task head around them."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """See `Family`."""
        return ("BertModel", "BertForMaskedLM")

    def size(self, config: ModelConfigJson) -> FamilySize:
        """See `Family`."""
        kind = config.text("position_embedding_type", "absolute")
        if kind != "absolute":
            raise ModelError(
                f"config.json: position_embedding_type {kind!r} is not supported "
                "(supported: absolute)"
            )
        hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        if hidden % heads:
            raise ModelError(
                f"config.json: hidden_size {hidden} does not divide into {heads} heads"
            )
        return FamilySize(hidden=hidden, max_tokens=config.integer("max_position_embeddings"))

    def token_states(
        self,
        *,
        graph: GraphBuilder,
        rows: PackedRows,
        config: ModelConfigJson,
        weights: Weights,
        linear: Linear,
    ) -> Value:
        """See `Family`."""
        build = _BertBuild(
            graph=graph,
            rows=rows,
            config=config,
            weights=weights.under(("bert.",), "embeddings.word_embeddings.weight"),
            linear=linear,
            hidden=self.size(config).hidden,
        )
        states = build.embeddings()
        for i in range(config.integer("num_hidden_layers")):
            states = build.layer(states, f"encoder.layer.{i}")
        return states


@dataclass(frozen=True, slots=True, kw_only=True)
class _BertBuild:
    """One build: the graph so far, and the weights that go into it."""

    graph: GraphBuilder
    rows: PackedRows
    config: ModelConfigJson
    weights: Weights
    linear: Linear
    hidden: int

    def embeddings(self) -> Value:
        take, hidden, graph = self.weights.take, self.hidden, self.graph
        word = take("embeddings.word_embeddings.weight", self._count("vocab_size"), hidden)
        position = take(
            "embeddings.position_embeddings.weight", self._count("max_position_embeddings"), hidden
        )
        token_type = take(
            "embeddings.token_type_embeddings.weight", self._count("type_vocab_size"), hidden
        )
        # A text alone is always token type 0, so its vector folds into the positions.
        word_states = graph.op("Gather", graph.const(word), self.rows.token_ids)
        place = graph.op("Gather", graph.const(position + token_type[0]), self.rows.positions)
        return self._norm(graph.op("Add", word_states, place), "embeddings.LayerNorm")

    def layer(self, states: Value, name: str) -> Value:
        attended = self._attention(states, f"{name}.attention")
        states = self._norm(
            self.graph.op("Add", attended, states), f"{name}.attention.output.LayerNorm"
        )
        fed_forward = self._feed_forward(states, name)
        return self._norm(self.graph.op("Add", fed_forward, states), f"{name}.output.LayerNorm")

    def _attention(self, states: Value, name: str) -> Value:
        hidden, take = self.hidden, self.weights.take
        parts = [f"{name}.self.{part}" for part in ("query", "key", "value")]
        # One wide product in place of three: the activations are read and quantised once.
        weight = np.concatenate([take(f"{part}.weight", hidden, hidden) for part in parts])
        bias = np.concatenate([take(f"{part}.bias", hidden) for part in parts])
        qkv = self.linear(self.graph, states, weight.T, bias, smooth_as=f"{name}.self")
        heads = self._count("num_attention_heads")
        mixed = attention(self.graph, self.rows, qkv, heads=heads, hidden=hidden)
        return self._linear(mixed, f"{name}.output.dense", hidden, hidden)

    def _feed_forward(self, states: Value, name: str) -> Value:
        inner = self._count("intermediate_size")
        up = f"{name}.intermediate.dense"
        wide = self._linear(states, up, self.hidden, inner, smooth_as=up)
        wide = activation(self.graph, self.config.text("hidden_act"), wide)
        return self._linear(wide, f"{name}.output.dense", inner, self.hidden)

    def _linear(
        self, x: Value, name: str, inputs: int, outputs: int, smooth_as: str | None = None
    ) -> Value:
        weight = self.weights.take(f"{name}.weight", outputs, inputs).T
        bias = self.weights.take(f"{name}.bias", outputs)
        return self.linear(self.graph, x, weight, bias, smooth_as=smooth_as)

    def _norm(self, x: Value, name: str) -> Value:
        scale = self.weights.take(f"{name}.weight", self.hidden)
        shift = self.weights.take(f"{name}.bias", self.hidden)
        epsilon = self.config.number("layer_norm_eps", 1e-12)
        return layer_norm(self.graph, x, scale, shift, epsilon=epsilon)

    def _count(self, key: str) -> int:
        return self.config.integer(key)

"""Layers that normalise after each block, as BERT and its relatives have them.

Owns their wiring and how queries, keys and values become one product. Must not know any one
checkpoint's names: those come in as `LayerNames`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.importing.families.family import EncoderParts, Weights
from vecserve_server.importing.graph.activations import activation
from vecserve_server.importing.graph.blocks import PackedRows, attention, layer_norm, split_in_rows
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.linear import Linear

Table: TypeAlias = tuple[str, int]
"""An embedding table: its tensor's name and its number of rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNames:
    """What a family calls the parts of a layer; each has a `.weight` and a `.bias`."""

    layer: str
    """The layer itself, with `{}` where its number goes; the other names follow it."""
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    up: str
    down: str
    output_norm: str

    def within(self, number: int) -> LayerNames:
        """Return the full names of one layer."""
        layer = self.layer.format(number)
        parts = [field.name for field in fields(self) if field.name != "layer"]
        return LayerNames(layer=layer, **{part: f"{layer}.{getattr(self, part)}" for part in parts})


@dataclass(frozen=True, slots=True, kw_only=True)
class PostNormShape:
    """The dimensions and settings of a stack of layers."""

    layers: int
    hidden: int
    inner: int
    heads: int
    activation: str
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PostNormBuild:
    """One build: the graph so far, and the weights that go into it."""

    graph: GraphBuilder
    rows: PackedRows
    weights: Weights
    linear: Linear
    shape: PostNormShape

    def embeddings(
        self, *, words: Table, positions: Table, token_types: Table | None, at: Value, norm: str
    ) -> Value:
        """Return the normalised sum of the tables' vectors [T, hidden].

        `at` int64 [T] indexes the table of positions.
        """
        graph = self.graph
        place = self._table(positions)
        if token_types is not None:
            # A text alone is always token type 0, so its vector folds into the positions.
            place = place + self._table(token_types)[0]
        word_states = graph.op("Gather", graph.const(self._table(words)), self.rows.token_ids)
        place_states = graph.op("Gather", graph.const(place), at)
        return self.norm(graph.op("Add", word_states, place_states), norm)

    def layers(self, states: Value, names: LayerNames, attention_bias: Value) -> Value:
        """Return the last layer's states [T, hidden]."""
        for number in range(self.shape.layers):
            states = self._layer(states, names.within(number), attention_bias)
        return states

    def norm(self, x: Value, name: str) -> Value:
        """Normalise x [T, hidden]."""
        scale = self.weights.take(f"{name}.weight", self.shape.hidden)
        shift = self.weights.take(f"{name}.bias", self.shape.hidden)
        return layer_norm(self.graph, x, scale, shift, epsilon=self.shape.epsilon)

    def _table(self, table: Table) -> NDArray[np.float32]:
        name, rows = table
        return self.weights.take(name, rows, self.shape.hidden)

    def _layer(self, states: Value, names: LayerNames, attention_bias: Value) -> Value:
        attended = self._attention(states, names, attention_bias)
        states = self.norm(self.graph.op("Add", attended, states), names.attention_norm)
        fed_forward = self._feed_forward(states, names)
        return self.norm(self.graph.op("Add", fed_forward, states), names.output_norm)

    def _attention(self, states: Value, names: LayerNames, bias: Value) -> Value:
        hidden, heads, take = self.shape.hidden, self.shape.heads, self.weights.take
        parts = (names.query, names.key, names.value)
        # One wide product in place of three: the activations are read and quantised once.
        weight = np.concatenate([take(f"{part}.weight", hidden, hidden) for part in parts])
        shift = np.concatenate([take(f"{part}.bias", hidden) for part in parts])
        qkv = self.linear(self.graph, states, weight.T, shift, name=names.query)
        in_rows = split_in_rows(self.graph, self.rows, qkv, hidden=hidden)
        mixed = attention(self.graph, in_rows, bias, heads=heads, hidden=hidden)
        return self._linear(mixed, names.attention_output, hidden, hidden)

    def _feed_forward(self, states: Value, names: LayerNames) -> Value:
        hidden, inner = self.shape.hidden, self.shape.inner
        wide = self._linear(states, names.up, hidden, inner)
        wide = activation(self.graph, self.shape.activation, wide)
        return self._linear(wide, names.down, inner, hidden)

    def _linear(self, x: Value, name: str, inputs: int, outputs: int) -> Value:
        weight = self.weights.take(f"{name}.weight", outputs, inputs).T
        bias = self.weights.take(f"{name}.bias", outputs)
        return self.linear(self.graph, x, weight, bias, name=name)


def post_norm_build(parts: EncoderParts, *, prefix: str, shape: PostNormShape) -> PostNormBuild:
    """Return the build; `prefix` stands before every name where the model has a task head."""
    return PostNormBuild(
        graph=parts.graph,
        rows=parts.rows,
        weights=parts.weights.under((prefix,), "embeddings.word_embeddings.weight"),
        linear=parts.linear,
        shape=shape,
    )

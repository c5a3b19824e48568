"""What an architecture family has to provide, and the weights it is given.

Owns the interface between the exporter and the families, and the checks on weights and on
`config.json`. Must not know any one family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import Json
from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.blocks import PackedRows
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.linear import Linear

_T = TypeVar("_T", int, float, str)


class Family(Protocol):
    """One architecture family, such as BERT."""

    @property
    def class_by_model_type(self) -> Mapping[str, str]:
        """What `model_type` of `config.json` may be, and how the names of its classes begin."""
        ...

    def size(self, config: ModelConfigJson) -> FamilySize:
        """Return the model's dimensions; raises `ModelError` naming an unsupported setting."""
        ...

    def token_states(self, parts: EncoderParts) -> Value:
        """Add the encoder and return its last hidden states [T, hidden].

        Raises `ModelError` for a missing or misshapen tensor.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySize:
    """The dimensions that the rest of the exporter needs."""

    hidden: int
    max_tokens: int
    """Longest sequence that the positions allow, special tokens included."""


@dataclass(frozen=True, slots=True)
class ModelConfigJson:
    """The checkpoint's `config.json`, read with checks."""

    values: Mapping[str, Json]

    def model_type(self) -> str | None:
        """Return `model_type`, None where the file does not state it."""
        value = self.values.get("model_type")
        return value if isinstance(value, str) and value else None

    def architecture(self) -> str | None:
        """Return the first of `architectures`, None where the file states none."""
        names = self.values.get("architectures")
        first = names[0] if isinstance(names, list) and names else None
        return first if isinstance(first, str) else None

    def filled(
        self, defaults: Mapping[str, Json], *, aliases: Mapping[str, str] = MappingProxyType({})
    ) -> ModelConfigJson:
        """Return the settings with the family's defaults for those that are not stated.

        `aliases` maps other names of settings to those that the family uses.
        """
        renamed = {
            name: self.values[alias] for alias, name in aliases.items() if alias in self.values
        }
        return ModelConfigJson({**defaults, **renamed, **self.values})

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"config.json: {key} is {value!r}, not a positive whole number")
        return value

    def divided(self, hidden_key: str, heads_key: str) -> tuple[int, int]:
        """Return the hidden size and the number of heads, which must divide it."""
        hidden, heads = self.integer(hidden_key), self.integer(heads_key)
        if hidden % heads:
            raise ModelError(
                f"config.json: {hidden_key} {hidden} does not divide into {heads} heads"
            )
        return hidden, heads

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"config.json: {key} is {value!r}, not a number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise ModelError(f"config.json: {key} is {value!r}, not a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ModelError(f"config.json: {key} is {value!r}, not true or false")
        return value

    def _value(self, key: str, default: _T | None) -> Json:
        value = self.values.get(key, default)
        if value is None:
            raise ModelError(f"config.json: {key} is missing")
        return value


@dataclass(frozen=True, slots=True)
class Weights:
    """The checkpoint's tensors, float32, taken by name with their shape checked."""

    tensors: Mapping[str, NDArray[np.float32]]
    prefix: str = ""
    """What stands before every name, as in `bert.encoder…` of a model with a task head."""

    def under(self, prefixes: tuple[str, ...], probe: str) -> Weights:
        """Return the view whose prefix makes `probe` exist, else this one."""
        for prefix in prefixes:
            if prefix + probe in self.tensors:
                return Weights(self.tensors, prefix)
        return self

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return a tensor; raises `ModelError` where it is missing or has another shape."""
        full_name = self.prefix + name
        tensor = self.tensors.get(full_name, self.tensors.get(_older_name(full_name)))
        if tensor is None:
            raise ModelError(f"model.safetensors: tensor {full_name} is missing")
        if tensor.shape != shape:
            found, expected = list(tensor.shape), list(shape)
            raise ModelError(
                f"model.safetensors: tensor {full_name} has shape {found}, expected {expected}"
            )
        return tensor


def _older_name(name: str) -> str:
    """Return what checkpoints converted from TensorFlow call a normalisation's tensors."""
    stem, dot, kind = name.rpartition(".")
    return f"{stem}{dot}{_OLDER_KINDS.get(kind, kind)}"


_OLDER_KINDS: Mapping[str, str] = MappingProxyType({"weight": "gamma", "bias": "beta"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderParts:
    """What a family builds an encoder from, and into."""

    graph: GraphBuilder
    rows: PackedRows
    config: ModelConfigJson
    weights: Weights
    linear: Linear

"""Activation functions, under the names that checkpoints give them.

Owns the functions and their names in `config.json`. Must not know any one architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.graph import GraphBuilder, Value

Activation: TypeAlias = Callable[[GraphBuilder, Value], Value]


def activation(graph: GraphBuilder, name: str, x: Value) -> Value:
    """Apply the activation that a checkpoint calls `name`; raises `ModelError` for others."""
    if name not in _ACTIVATION_BY_NAME:
        known = ", ".join(_ACTIVATION_BY_NAME)
        raise ModelError(f"activation {name!r} is not supported (supported: {known})")
    return _ACTIVATION_BY_NAME[name](graph, x)


def _operator(kind: str, **attributes: Any) -> Activation:
    return lambda graph, x: graph.op(kind, x, **attributes)


def _gated(factor: float) -> Activation:
    """Return x times the sigmoid of x times a factor."""

    def apply(graph: GraphBuilder, x: Value) -> Value:
        scaled = x if factor == 1 else graph.op("Mul", x, graph.const(np.float32(factor)))
        return graph.op("Mul", x, graph.op("Sigmoid", scaled))

    return apply


def _clipped(before: Activation, low: float, high: float) -> Activation:
    def apply(graph: GraphBuilder, x: Value) -> Value:
        limits = (graph.const(np.float32(limit)) for limit in (low, high))
        return graph.op("Clip", before(graph, x), *limits)

    return apply


def _identity(graph: GraphBuilder, x: Value) -> Value:  # noqa: ARG001 - part of the interface
    return x


def _relu_squared(graph: GraphBuilder, x: Value) -> Value:
    positive = graph.op("Relu", x)
    return graph.op("Mul", positive, positive)


def _log_sigmoid(graph: GraphBuilder, x: Value) -> Value:
    return graph.op("Neg", graph.op("Softplus", graph.op("Neg", x)))


_EXACT_GELU = _operator("Gelu", approximate="none")
_TANH_GELU = _operator("Gelu", approximate="tanh")

_ACTIVATION_BY_NAME: Mapping[str, Activation] = MappingProxyType(
    {
        "gelu": _EXACT_GELU,
        "gelu_python": _EXACT_GELU,
        "gelu_10": _clipped(_EXACT_GELU, -10, 10),
        "gelu_new": _TANH_GELU,
        "gelu_fast": _TANH_GELU,
        "gelu_accurate": _TANH_GELU,
        "gelu_pytorch_tanh": _TANH_GELU,
        "gelu_python_tanh": _TANH_GELU,
        "quick_gelu": _gated(1.702),
        "relu": _operator("Relu"),
        "relu2": _relu_squared,
        "relu6": _clipped(_identity, 0, 6),
        "leaky_relu": _operator("LeakyRelu", alpha=0.01),
        "elu": _operator("Elu", alpha=1.0),
        "selu": _operator("Selu"),
        "silu": _gated(1),
        "swish": _gated(1),
        "mish": _operator("Mish"),
        "hardswish": _operator("HardSwish"),
        "hardsigmoid": _operator("HardSigmoid", alpha=1 / 6, beta=0.5),
        "hardtanh": _clipped(_identity, -1, 1),
        "sigmoid": _operator("Sigmoid"),
        "logsigmoid": _log_sigmoid,
        "softplus": _operator("Softplus"),
        "softsign": _operator("Softsign"),
        "tanh": _operator("Tanh"),
        "linear": _identity,
        "identity": _identity,
    }
)

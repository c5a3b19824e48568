"""What an ONNX graph says about its tensors.

Owns the reading of ONNX Runtime's descriptions. Must not know configurations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vecserve_server.errors import ModelError
from vecserve_server.onnx_models.datatypes import Datatype, from_onnx

_TENSOR = re.compile(r"(?P<optional>optional\()?tensor\((?P<element>\w+)\)\)?")
Shape: TypeAlias = tuple[int, ...]
"""Sizes; -1 where any will do."""


class Described(Protocol):
    """ONNX Runtime's `NodeArg`."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTensor:
    """One input or output of a graph."""

    name: str
    datatype: Datatype
    shape: Shape
    """The batch dimension included; empty for a scalar, and where the graph does not say."""
    optional: bool = False
    """Whether the graph runs without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The tensors of a model, by name."""

    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]


def read_graph(
    inputs: Iterable[Described], overridable: Iterable[Described], outputs: Iterable[Described]
) -> Graph:
    """Read the descriptions; `overridable` are initialisers that a caller may replace.

    Raises `ModelError` naming the tensor whose type is not supported.
    """
    return Graph(
        inputs={
            **{each.name: _tensor(each, "input", optional=False) for each in inputs},
            **{each.name: _tensor(each, "input", optional=True) for each in overridable},
        },
        outputs={each.name: _tensor(each, "output", optional=False) for each in outputs},
    )


def _tensor(described: Described, side: str, *, optional: bool) -> GraphTensor:
    match = _TENSOR.fullmatch(described.type)
    datatype = from_onnx(match["element"]) if match else None
    if match is None or datatype is None:
        raise ModelError(f'{side} "{described.name}": type {described.type} is not supported')
    return GraphTensor(
        name=described.name,
        datatype=datatype,
        shape=tuple(size if isinstance(size, int) else -1 for size in described.shape),
        optional=optional or bool(match["optional"]),
    )

"""What an ONNX graph says about its tensors.

Owns the reading of ONNX Runtime's descriptions. Must not know configurations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from vecserve_server.errors import ModelError
from vecserve_server.model_files.datatypes import Datatype, from_onnx

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
    is_scalar: bool = False
    """Whether the graph says that there are no dimensions."""
    optional: bool = False
    """Whether the graph runs without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The tensors of a model, by name."""

    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]


def read_graph(
    inputs: Sequence[Described],
    overridable: Sequence[Described],
    outputs: Sequence[Described],
    *,
    scalars: Callable[[], Collection[str]],
) -> Graph:
    """Read the descriptions; `overridable` are initialisers that a caller may replace.

    `scalars` names the tensors without dimensions; it is asked where a description has none.
    Raises `ModelError` naming the tensor whose type is not supported.
    """
    shapeless = any(not each.shape for each in (*inputs, *overridable, *outputs))
    known = scalars() if shapeless else ()
    return Graph(
        inputs={
            **{each.name: _tensor(each, "input", known, optional=False) for each in inputs},
            **{each.name: _tensor(each, "input", known, optional=True) for each in overridable},
        },
        outputs={each.name: _tensor(each, "output", known, optional=False) for each in outputs},
    )


def _tensor(
    described: Described, side: str, scalars: Collection[str], *, optional: bool
) -> GraphTensor:
    match = _TENSOR.fullmatch(described.type)
    datatype = from_onnx(match["element"]) if match else None
    if match is None or datatype is None:
        raise ModelError(f'{side} "{described.name}": type {described.type} is not supported')
    return GraphTensor(
        name=described.name,
        datatype=datatype,
        shape=tuple(size if isinstance(size, int) else -1 for size in described.shape),
        is_scalar=not described.shape and described.name in scalars,
        optional=optional or bool(match["optional"]),
    )

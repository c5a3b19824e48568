"""What a model's inputs and outputs look like to its callers.

Owns the checks of what callers send, and the reshaping between their tensors and the graph's.
Must not know requests, batching across requests or sessions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vecserve.inference import model_config_pb2
from vecserve_server.errors import EngineError, InvalidArgument, ModelError
from vecserve_server.model_files.datatypes import Datatype, from_proto, name_of
from vecserve_server.model_files.graph import Shape

TensorProto: TypeAlias = model_config_pb2.ModelInput | model_config_pb2.ModelOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    datatype: Datatype
    dims: Shape
    """As callers see it, without the batch dimension."""
    graph_dims: Shape
    """As the graph sees it, without the batch dimension."""
    batched: bool
    """Whether a batch dimension comes first."""
    optional: bool = False

    @classmethod
    def read(cls, tensor: TensorProto, *, batched: bool) -> TensorSpec:
        """Read a tensor of a checked configuration."""
        datatype = from_proto(tensor.data_type)
        if datatype is None:
            raise ModelError(f'"{tensor.name}": data_type is not supported')
        dims = tuple(tensor.dims)
        return cls(
            name=tensor.name,
            datatype=datatype,
            dims=dims,
            graph_dims=tuple(tensor.reshape.shape) if tensor.HasField("reshape") else dims,
            batched=batched,
            optional=getattr(tensor, "optional", False),
        )

    @property
    def shape(self) -> Shape:
        """As callers see it, the batch dimension included."""
        return (-1, *self.dims) if self.batched else self.dims

    @property
    def graph_shape(self) -> Shape:
        """As the graph sees it, the batch dimension included."""
        return (-1, *self.graph_dims) if self.batched else self.graph_dims

    def check(self, array: NDArray[Any]) -> None:
        """Refuse a caller's tensor of another datatype or shape; raises `InvalidArgument`."""
        field = ("inputs", self.name)
        if array.dtype != self.datatype.numpy:
            problem = f"has the datatype {name_of(array)}; the model takes {self.datatype.name}"
            raise InvalidArgument(field, problem)
        if not fits(array.shape, self.shape):
            problem = f"has the shape {list(array.shape)}; the model takes {list(self.shape)}"
            raise InvalidArgument(field, problem)

    def to_graph(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a caller's tensor, which fits, as the graph takes it."""
        if self.graph_dims == self.dims:
            return array
        return array.reshape(_reshaped(array.shape, self.shape, self.graph_shape))

    def from_graph(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a tensor of the graph as callers see it; raises `EngineError` for a misfit."""
        if self.graph_dims == self.dims:
            return array
        if not fits(array.shape, self.graph_shape):
            found, wanted = list(array.shape), list(self.graph_shape)
            raise EngineError(f"output {self.name!r} came out as {found}, {wanted} was expected")
        return array.reshape(_reshaped(array.shape, self.graph_shape, self.shape))


def fits(shape: Shape, expected: Shape) -> bool:
    """Tell whether sizes are those expected, where -1 is any."""
    return len(shape) == len(expected) and all(
        wanted in (-1, size) for size, wanted in zip(shape, expected, strict=True)
    )


def check_reshape(dims: Shape, reshape: Shape) -> str | None:
    """Return what keeps tensors of `dims` from being read as `reshape`; None where nothing does.

    The sizes between one -1 and the next must multiply to the same number on both sides.
    """
    if any(size < -1 or size == 0 for size in reshape):
        return f"{list(reshape)} must be positive, or -1 for any"
    if _products(dims) != _products(reshape):
        return f"{list(reshape)} does not hold the elements of dims {list(dims)}"
    return None


def _products(dims: Shape) -> list[int]:
    """Return the products of the sizes before, between and after the -1s."""
    marks = [-1, *(index for index, size in enumerate(dims) if size == -1), len(dims)]
    return [math.prod(dims[a + 1 : b]) for a, b in pairwise(marks)]


def _reshaped(shape: Shape, template: Shape, wanted: Shape) -> Shape:
    """Fill the -1s of `wanted` with the sizes that stand for those of `template`, in order."""
    found = iter(size for size, any_size in zip(shape, template, strict=True) if any_size == -1)
    return tuple(next(found) if size == -1 else size for size in wanted)

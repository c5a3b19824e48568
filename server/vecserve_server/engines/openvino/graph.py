"""What OpenVINO says of a model's tensors.

Owns the names of its element types. Must not know sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vecserve_server.errors import ModelError
from vecserve_server.model_files.datatypes import DATATYPES
from vecserve_server.model_files.graph import Graph, GraphTensor


def described_by(compiled: Any) -> Graph:
    """Return the tensors of a compiled model; raises `ModelError` for a type not supported."""
    return Graph(inputs=_tensors(compiled.inputs), outputs=_tensors(compiled.outputs))


def _tensors(ports: Sequence[Any]) -> dict[str, GraphTensor]:
    return {tensor.name: tensor for tensor in map(_tensor, ports)}


def _tensor(port: Any) -> GraphTensor:
    name = str(port.get_any_name())
    numpy_type = port.get_element_type().to_dtype()
    datatype = next((each for each in DATATYPES if each.numpy == numpy_type), None)
    if datatype is None:
        raise ModelError(f'"{name}": type {port.get_element_type()} is not supported')
    sizes = port.get_partial_shape()
    return GraphTensor(
        name=name,
        datatype=datatype,
        shape=tuple(-1 if size.is_dynamic else int(size.get_length()) for size in sizes),
    )

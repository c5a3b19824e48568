"""Read an ONNX file of a checkpoint, and the tensors that it keeps in files beside it.

Owns where such a file may lie and how its tensors come into the model. Must not know encoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import onnx

from vecserve_server.errors import ModelError

ONNX_FILES = ("model.onnx", "onnx/model.onnx")
"""Where a checkpoint keeps its encoder as ONNX, the first that is there."""


def load_model(file: Path) -> onnx.ModelProto:
    """Read a model without the tensors in other files; raises `ModelError` for a damaged one."""
    try:
        return onnx.load(file, load_external_data=False)
    except Exception as error:
        raise ModelError(f"{file.name}: not a readable ONNX model ({error})") from error


def external_files(model: onnx.ModelProto, file: Path) -> tuple[Path, ...]:
    """Return the files beside `file` that hold tensors of its model, in order.

    They may be links, as in a download cache. Raises `ModelError` for a location that leads
    elsewhere.
    """
    locations = {_entries(tensor).get("location", "") for tensor in _external_tensors(model)}
    return tuple(file.parent / _checked(location, file) for location in sorted(locations))


def take_in(model: onnx.ModelProto, file: Path) -> None:
    """Bring the tensors of other files into the model.

    Raises `ModelError` for a file that is missing or too short.
    """
    tensors: dict[str, list[onnx.TensorProto]] = {}
    for tensor in _external_tensors(model):
        tensors.setdefault(_entries(tensor).get("location", ""), []).append(tensor)
    for location, held in tensors.items():
        path = file.parent / _checked(location, file)
        if not path.is_file():
            raise ModelError(f"{location} is missing from {file.parent}: {file.name} needs it")
        with path.open("rb") as data:
            for tensor in held:
                tensor.raw_data = _bytes_of(tensor, data, location)
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]


def _bytes_of(tensor: onnx.TensorProto, data: BinaryIO, location: str) -> bytes:
    entries = _entries(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
        data.seek(offset)
    except ValueError as error:
        raise ModelError(f"{location}: tensor {tensor.name} has a malformed place") from error
    content = data.read(length if length >= 0 else -1)
    if length >= 0 and len(content) != length:
        raise ModelError(f"{location}: ends within tensor {tensor.name}")
    return content


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _checked(location: str, file: Path) -> str:
    path = PurePosixPath(location)
    if not location or "\0" in location or path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{file.name}: its tensors lie at {location!r}, which is not beside it")
    return location


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in _tensors(model.graph, [node for f in model.functions for node in f.node]):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _tensors(
    graph: onnx.GraphProto, more: list[onnx.NodeProto] | tuple[()] = ()
) -> Iterator[onnx.TensorProto]:
    """Yield the tensors of a graph, and of the graphs within its nodes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in (*graph.node, *more):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _tensors(inner)

"""Tensors of the KServe v2 protocol.

Owns the reading of request inputs, raw or typed, and the packing of BYTES. Must not know models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from vecserve_server.errors import InvalidArgument, Unsupported

BYTES = "BYTES"
NUMPY_TYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
TYPED_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
LENGTH = struct.Struct("<I")
MAX_RANK = 8


def read_inputs(request: service_pb2.ModelInferRequest) -> dict[str, NDArray[Any]]:
    """Read all inputs by name; BYTES become object arrays of bytes."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(
            "raw_input_contents", f"has {len(raw)} entries for {len(request.inputs)} inputs"
        )
    tensors: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in tensors:
            raise InvalidArgument(f"inputs[{index}].name", f"{tensor.name!r} comes twice")
        _refuse_shared_memory(tensor)
        tensors[tensor.name] = _read(tensor, raw[index] if raw else None)
    return tensors


def _refuse_shared_memory(tensor: service_pb2.ModelInferRequest.InferInputTensor) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise Unsupported(f"input {tensor.name!r}: shared memory is not offered by this server")


def _read(
    tensor: service_pb2.ModelInferRequest.InferInputTensor, raw: bytes | None
) -> NDArray[Any]:
    name = f"input {tensor.name!r}"
    count = _element_count(name, tensor.shape)
    if raw is not None and tensor.HasField("contents"):
        raise InvalidArgument(name, "has contents beside raw_input_contents; one must be empty")
    flat = (
        _flat_typed(name, tensor) if raw is None else _flat_raw(name, tensor.datatype, raw, count)
    )
    if flat.size != count:
        raise InvalidArgument(
            name, f"has {flat.size} elements; its shape {list(tensor.shape)} takes {count}"
        )
    return flat.reshape(tuple(tensor.shape))


def _element_count(name: str, shape: Sequence[int]) -> int:
    if len(shape) > MAX_RANK:
        raise InvalidArgument(name, f"has {len(shape)} dimensions; the limit is {MAX_RANK}")
    # Each size by itself, too: beside a zero, the others could be anything.
    if any(not 0 <= size < 2**31 for size in shape):
        raise InvalidArgument(name, f"has the shape {list(shape)}; sizes must be >= 0 and < 2^31")
    return math.prod(shape)


def _flat_raw(name: str, datatype: str, raw: bytes, count: int) -> NDArray[Any]:
    if datatype == BYTES:
        # What came decides how much is allocated, not the shape that the client claims.
        return _object_array(list(_split_bytes(name, raw)))
    if datatype not in NUMPY_TYPES:
        raise InvalidArgument(name, f"has the datatype {datatype!r}, which is unknown")
    numpy_type = np.dtype(NUMPY_TYPES[datatype])
    if len(raw) != count * numpy_type.itemsize:
        raise InvalidArgument(
            name, f"has {len(raw)} bytes; its shape takes {count * numpy_type.itemsize}"
        )
    return np.frombuffer(raw, numpy_type)


def _flat_typed(name: str, tensor: service_pb2.ModelInferRequest.InferInputTensor) -> NDArray[Any]:
    field = TYPED_CONTENTS.get(tensor.datatype)
    if field is None:
        raise InvalidArgument(name, f"has no typed contents for the datatype {tensor.datatype!r}")
    values = list(getattr(tensor.contents, field))
    if tensor.datatype == BYTES:
        return _object_array(values)
    try:
        return np.array(values, NUMPY_TYPES[tensor.datatype])
    except OverflowError:
        raise InvalidArgument(name, f"holds values that {tensor.datatype} cannot hold") from None


def _object_array(values: list[bytes]) -> NDArray[Any]:
    elements = np.empty(len(values), object)
    elements[:] = values
    return elements


def _split_bytes(name: str, raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor: each a little-endian uint32 length and its bytes."""
    at = 0
    while at < len(raw):
        if at + LENGTH.size > len(raw):
            raise InvalidArgument(name, f"ends inside the length of an element, at byte {at}")
        (size,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if at + size > len(raw):
            raise InvalidArgument(name, f"ends inside an element of {size} bytes, at byte {at}")
        yield raw[at : at + size]
        at += size

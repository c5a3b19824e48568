"""Tensors of the KServe v2 protocol.

Owns the reading of inputs, raw or typed, and the writing of outputs. BF16 is a NumPy type of
ml_dtypes. Must not know models.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from vecserve.inference import service_pb2
from vecserve_server.errors import InvalidArgument

BYTES = "BYTES"
NUMPY_TYPES: Mapping[str, DTypeLike] = {
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
    "BF16": ml_dtypes.bfloat16,
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
MAX_ELEMENTS = 1 << 48
# Each takes a Python object, and they are read on the event loop; raw numbers take neither.
MAX_BYTES_ELEMENTS = 1 << 20
MAX_TYPED_ELEMENTS = 1 << 22
Data: TypeAlias = bytes | memoryview
InputTensor: TypeAlias = service_pb2.ModelInferRequest.InferInputTensor


def check_shape(field: str, shape: Sequence[int]) -> int:
    """Accept a shape that a tensor can have; returns its elements."""
    if len(shape) > MAX_RANK:
        raise InvalidArgument(field, f"has {len(shape)} dimensions; the limit is {MAX_RANK}")
    # Each size by itself, too: beside a zero, the others could be anything.
    if any(not 0 <= size < 2**31 for size in shape):
        raise InvalidArgument(field, f"has the shape {list(shape)}; sizes must be >= 0 and < 2^31")
    # NumPy multiplies the others even where one is zero.
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise InvalidArgument(field, f"has the shape {list(shape)}, which is too large")
    return math.prod(shape)


def read_raw(tensor: InputTensor, data: Data) -> NDArray[Any]:
    """Read a tensor from its bytes: read-only, and without a copy where NumPy can."""
    field = f"input {tensor.name!r}"
    if tensor.HasField("contents"):
        raise InvalidArgument(field, "has contents beside its bytes; one must be empty")
    count = check_shape(field, tensor.shape)
    if tensor.datatype == BYTES:
        _check_count(field, count, limit=MAX_BYTES_ELEMENTS)
        return _object_array(_split_bytes(field, data, count)).reshape(tuple(tensor.shape))
    numpy_type = _numpy_type(field, tensor.datatype)
    if len(data) != count * numpy_type.itemsize:
        raise InvalidArgument(
            field,
            f"has {len(data)} bytes; its shape {list(tensor.shape)} takes "
            f"{count * numpy_type.itemsize}",
        )
    return _from_bytes(data, numpy_type).reshape(tuple(tensor.shape))


def read_typed(tensor: InputTensor) -> NDArray[Any]:
    """Read a tensor from the typed contents of the request."""
    field = f"input {tensor.name!r}"
    count = check_shape(field, tensor.shape)
    name = TYPED_CONTENTS.get(tensor.datatype)
    if name is None:
        raise InvalidArgument(field, f"has no typed contents for the datatype {tensor.datatype!r}")
    _check_only(field, tensor, name)
    limit = MAX_BYTES_ELEMENTS if tensor.datatype == BYTES else MAX_TYPED_ELEMENTS
    _check_count(field, count, limit=limit)
    values = getattr(tensor.contents, name)
    if len(values) != count:
        raise InvalidArgument(
            field, f"has {len(values)} elements; its shape {list(tensor.shape)} takes {count}"
        )
    return _typed_array(field, tensor.datatype, values).reshape(tuple(tensor.shape))


def write_raw(datatype: str, tensor: NDArray[Any]) -> bytes:
    """Write an output as bytes."""
    if datatype == BYTES:
        return _join_bytes(tensor)
    return np.ascontiguousarray(tensor, NUMPY_TYPES[datatype]).tobytes()


def _check_count(field: str, count: int, *, limit: int) -> None:
    if count > limit:
        raise InvalidArgument(field, f"has {count} elements; the limit is {limit}")


def _numpy_type(field: str, datatype: str) -> np.dtype[Any]:
    if datatype not in NUMPY_TYPES:
        raise InvalidArgument(field, f"has the datatype {datatype!r}, which is unknown")
    return np.dtype(NUMPY_TYPES[datatype])


def _from_bytes(data: Data, numpy_type: np.dtype[Any]) -> NDArray[Any]:
    if not len(data):
        return np.empty(0, numpy_type)
    if numpy_type.kind == "b":
        # Any byte but 0 is true; NumPy relies on 1.
        return np.frombuffer(data, np.uint8).astype(numpy_type)
    flat = np.frombuffer(data, numpy_type)
    # Engines rely on the alignment.
    return flat if flat.flags.aligned else flat.copy()


def _check_only(field: str, tensor: InputTensor, name: str) -> None:
    others = [entry.name for entry, _ in tensor.contents.ListFields() if entry.name != name]
    if others:
        raise InvalidArgument(
            field, f"has {', '.join(others)}; {tensor.datatype} takes {name} alone"
        )


def _typed_array(field: str, datatype: str, values: Sequence[Any]) -> NDArray[Any]:
    if datatype == BYTES:
        return _object_array(list(values))
    try:
        return np.fromiter(values, NUMPY_TYPES[datatype], len(values))
    except OverflowError:
        raise InvalidArgument(field, f"holds values that {datatype} cannot hold") from None


def _object_array(values: Sequence[bytes]) -> NDArray[Any]:
    elements = np.empty(len(values), object)
    elements[:] = values
    return elements


def _split_bytes(field: str, data: Data, count: int) -> list[bytes]:
    """Read `count` elements, each a little-endian uint32 length and its bytes."""
    # What came decides how much is allocated, not the shape that the client claims.
    if count * LENGTH.size > len(data):
        raise InvalidArgument(
            field, f"has {len(data)} bytes; its {count} elements take {LENGTH.size} each at least"
        )
    elements = list(_elements(field, data, count))
    used = sum(map(len, elements)) + count * LENGTH.size
    if used != len(data):
        raise InvalidArgument(field, f"has {len(data)} bytes; its {count} elements end at {used}")
    return elements


def _elements(field: str, data: Data, count: int) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        if at + LENGTH.size > len(data):
            raise InvalidArgument(field, f"ends inside the length of an element, at byte {at}")
        (size,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        if at + size > len(data):
            raise InvalidArgument(field, f"ends inside an element of {size} bytes, at byte {at}")
        yield bytes(data[at : at + size])
        at += size


def _join_bytes(tensor: NDArray[Any]) -> bytes:
    parts: list[bytes] = []
    for element in tensor.ravel():
        data = element if isinstance(element, bytes) else str(element).encode()
        parts += (LENGTH.pack(len(data)), data)
    return b"".join(parts)

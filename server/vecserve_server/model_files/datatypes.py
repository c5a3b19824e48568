"""The types of tensors, by each of the names that they go by.

Owns the table between Triton's `ModelConfig`, the inference protocol, ONNX and numpy. Must not
know sessions or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vecserve.inference import model_config_pb2


@dataclass(frozen=True, slots=True)
class Datatype:
    """One type of element."""

    name: str
    """In the inference protocol: `FP32`, `BYTES`."""
    onnx: str
    """In ONNX Runtime: `float`, `string`."""
    numpy: np.dtype[Any]

    @property
    def proto(self) -> model_config_pb2.DataType.ValueType:
        """Number in `ModelConfig`: `TYPE_FP32`, `TYPE_STRING`."""
        label = "STRING" if self.name == "BYTES" else self.name
        return model_config_pb2.DataType.Value(f"TYPE_{label}")

    @property
    def is_bytes(self) -> bool:
        """Whether elements are byte strings, in object arrays."""
        return self.name == "BYTES"


DATATYPES: Sequence[Datatype] = tuple(
    Datatype(name, onnx, np.dtype(numpy))
    for name, onnx, numpy in (
        ("BOOL", "bool", "?"),
        ("UINT8", "uint8", "u1"),
        ("UINT16", "uint16", "u2"),
        ("UINT32", "uint32", "u4"),
        ("UINT64", "uint64", "u8"),
        ("INT8", "int8", "i1"),
        ("INT16", "int16", "i2"),
        ("INT32", "int32", "i4"),
        ("INT64", "int64", "i8"),
        ("FP16", "float16", "f2"),
        ("BF16", "bfloat16", ml_dtypes.bfloat16),
        ("FP32", "float", "f4"),
        ("FP64", "double", "f8"),
        ("BYTES", "string", "O"),
    )
)


def from_proto(number: int) -> Datatype | None:
    """Return the type of a `ModelConfig`'s `data_type`; None where it is not supported."""
    return next((datatype for datatype in DATATYPES if datatype.proto == number), None)


def proto_name(number: int) -> str:
    """Return `TYPE_FP32` and the like, for any number that a message may hold."""
    value = model_config_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
    return str(value.name) if value else str(number)


def from_onnx(name: str) -> Datatype | None:
    """Return the type of ONNX Runtime's element type; None where it is not supported."""
    return next((datatype for datatype in DATATYPES if datatype.onnx == name), None)


def name_of(array: NDArray[Any]) -> str:
    """Return the protocol's name for an array's type."""
    kinds = (datatype.name for datatype in DATATYPES if datatype.numpy == array.dtype)
    return next(kinds, str(array.dtype))

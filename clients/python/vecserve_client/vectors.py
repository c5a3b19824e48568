"""Vectors as bytes.

Owns the four layouts of `vecserve.v1.Vector`. Must not know calls or channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np

from vecserve.v1 import common_pb2
from vecserve_client.errors import InvalidArgument, ServerError
from vecserve_client.types import Encoding, Vectors


def to_proto(vector: Vectors, encoding: Encoding = "f32") -> common_pb2.Vector:
    """Pack one vector, float [D]; raise InvalidArgument unless D >= 1 and all is finite."""
    try:
        components = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"vector: {vector!r:.80} is no vector; a list of numbers or a NumPy array [D] is"
        ) from None
    if components.ndim != 1 or components.size == 0:
        raise InvalidArgument(f"vector: shape {components.shape}, must be [D] with D of 1 or more")
    if not np.isfinite(components).all():
        raise InvalidArgument("vector: every component must be finite")
    layout = _LAYOUTS[encoding]
    scale, data = layout.pack(components)
    return common_pb2.Vector(encoding=layout.number, dim=components.size, data=data, scale=scale)


def from_proto(message: common_pb2.Vector) -> Vectors:
    """Unpack one vector to float32 [D]; raise ServerError where bytes and layout disagree."""
    if message.values:
        return np.asarray(message.values, dtype=np.float32)
    layout = _LAYOUTS_BY_NUMBER.get(message.encoding or common_pb2.VECTOR_ENCODING_F32)
    if layout is None:
        raise ServerError(f"vector: unknown encoding {message.encoding}")
    if message.dim and len(message.data) != -(-message.dim * layout.bits // 8):
        raise ServerError(f"vector: {len(message.data)} bytes do not hold {message.dim} components")
    return layout.unpack(message)


def encoding_number(encoding: Encoding) -> common_pb2.VectorEncoding.ValueType:
    """Look up the enum value of an encoding."""
    if encoding not in _LAYOUTS:
        raise InvalidArgument(f"encoding: {encoding!r}, must be one of {', '.join(_LAYOUTS)}")
    return _LAYOUTS[encoding].number


class _Layout(NamedTuple):
    number: common_pb2.VectorEncoding.ValueType
    bits: int
    pack: Callable[[Vectors], tuple[float, bytes]]
    unpack: Callable[[common_pb2.Vector], Vectors]


def _pack_f32(vector: Vectors) -> tuple[float, bytes]:
    return 0.0, vector.astype("<f4").tobytes()


def _unpack_f32(message: common_pb2.Vector) -> Vectors:
    return np.frombuffer(message.data, dtype="<f4").astype(np.float32)


def _pack_f16(vector: Vectors) -> tuple[float, bytes]:
    limit = float(np.finfo(np.float16).max)
    return 0.0, np.clip(vector, -limit, limit).astype("<f2").tobytes()


def _unpack_f16(message: common_pb2.Vector) -> Vectors:
    return np.frombuffer(message.data, dtype="<f2").astype(np.float32)


def _pack_int8(vector: Vectors) -> tuple[float, bytes]:
    smallest = float(np.finfo(np.float32).tiny)
    scale = max(float(np.abs(vector).max()) / 127, smallest)
    return scale, np.rint(vector / np.float32(scale)).clip(-127, 127).astype(np.int8).tobytes()


def _unpack_int8(message: common_pb2.Vector) -> Vectors:
    return np.frombuffer(message.data, dtype=np.int8) * np.float32(message.scale)


def _pack_binary(vector: Vectors) -> tuple[float, bytes]:
    return 0.0, np.packbits(vector > 0).tobytes()


def _unpack_binary(message: common_pb2.Vector) -> Vectors:
    bits = np.unpackbits(np.frombuffer(message.data, dtype=np.uint8), count=message.dim or None)
    return np.where(bits, np.float32(1), np.float32(-1))


_LAYOUTS: Final[Mapping[Encoding, _Layout]] = MappingProxyType(
    {
        "f32": _Layout(common_pb2.VECTOR_ENCODING_F32, 32, _pack_f32, _unpack_f32),
        "f16": _Layout(common_pb2.VECTOR_ENCODING_F16, 16, _pack_f16, _unpack_f16),
        "int8": _Layout(common_pb2.VECTOR_ENCODING_INT8, 8, _pack_int8, _unpack_int8),
        "binary": _Layout(common_pb2.VECTOR_ENCODING_BINARY, 1, _pack_binary, _unpack_binary),
    }
)

_LAYOUTS_BY_NUMBER: Final = MappingProxyType({lay.number: lay for lay in _LAYOUTS.values()})

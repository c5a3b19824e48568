"""Byte strings in tensors of ONNX Runtime, which its Python interface takes and gives as text only.

Owns the memory of such a tensor: an array of libstdc++'s `std::string`, each 32 bytes that begin
with the address and the size of its characters. Whether that holds is tried before it is relied
on. Must not know models.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from vecserve_server.errors import ModelError

_LIBRARY = "libstdc++.so.6"
# std::string::_M_replace(position, replaced, characters, size)
_REPLACE = "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE10_M_replaceEmmPKcm"
_STRING_BYTES = 32
_PROBE = (b"", b"\xff\xfe\0", bytes(range(256)))


class ByteStrings:
    """Makes and reads tensors of byte strings. Any thread."""

    def __init__(self) -> None:
        """Try that strings go in and come out; raises `ModelError` where they do not."""
        try:
            self._replace = _replace_function()
            self._blank = _blank_strings()
            probe = np.empty(len(_PROBE), object)
            probe[:] = _PROBE
            works = self.read(self.write(probe)).tolist() == list(_PROBE)
        except (OSError, AttributeError) as error:
            raise ModelError(f"BYTES tensors need {_LIBRARY}: {error}") from error
        if not works:
            raise ModelError("BYTES tensors do not work with this build of ONNX Runtime")

    def write(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Return a tensor of the array's byte strings."""
        numbers = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(array.shape, np.int64))
        (value,) = self._blank.run_with_ort_values(["y"], {"x": numbers})
        if array.size:
            address = value.data_ptr()
            for element in array.ravel():
                # Each is "0" so far, one character.
                self._replace(address, 0, 1, element, len(element))
                address += _STRING_BYTES
        return value

    def read(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        """Return the byte strings of a tensor."""
        array = np.empty(tuple(value.shape()), object)
        if array.size:
            words = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint64))
            headers = np.ctypeslib.as_array(words, (array.size, _STRING_BYTES // 8))[:, :2].tolist()
            array.reshape(-1)[:] = [ctypes.string_at(start, size) for start, size in headers]
        return array


def _replace_function() -> Any:
    function = getattr(ctypes.CDLL(_LIBRARY), _REPLACE)
    size = ctypes.c_size_t
    function.argtypes = [ctypes.c_void_p, size, size, ctypes.c_char_p, size]
    function.restype = ctypes.c_void_p
    return function


def _blank_strings() -> onnxruntime.InferenceSession:
    """Return a graph that makes a string of each number."""
    x, y = (
        onnx.ValueInfoProto(name=name, type=helper.make_tensor_type_proto(kind, None))
        for name, kind in (("x", onnx.TensorProto.INT64), ("y", onnx.TensorProto.STRING))
    )
    node = helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.STRING)
    model = helper.make_model(
        helper.make_graph([node], "blank", [x], [y]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

"""Write an ONNX graph node by node.

Owns names, deduplicated constants and the model's header. Must not know any architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Value: TypeAlias = str
"""The name of a tensor in the graph."""

CONTRIB_DOMAIN = "com.microsoft"
"""Operators of ONNX Runtime outside the ONNX standard."""

_OPSET = 23
_IR_VERSION = 11
_LARGEST_HALF = 6e4
"""Short of float16's largest number, so that a small one can be added."""


class GraphBuilder:
    """Collect nodes, constants, inputs and outputs, then make one model of them."""

    def __init__(self, *, prefix: str = "", half: bool = False) -> None:
        """Start empty.

        `prefix` sets the names apart from those of a graph to join; `half` turns every float32
        constant into float16 up to the call of `in_float32`.
        """
        self._prefix = prefix
        self._half = half
        # Built in place: a protobuf message that goes into another is copied, weights and all.
        self._model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="vecserve")
        self._graph = self._model.graph
        self._constant_names: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> Value:
        """Declare an input; a string in `shape` names a free dimension."""
        self._graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, array: NDArray[Any] | np.generic) -> Value:
        """Return the name of a constant; equal constants share one name."""
        if self._half and array.dtype == np.float32:
            array = np.clip(array, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16)
        contiguous = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (
            contiguous.dtype.str,
            contiguous.shape,
            hashlib.sha256(contiguous.data).digest(),
        )
        if key not in self._constant_names:
            self._constant_names[key] = name = f"{self._prefix}c{len(self._constant_names)}"
            self._graph.initializer.append(numpy_helper.from_array(contiguous, name))
        return self._constant_names[key]

    def in_float32(self, value: Value) -> Value:
        """Return `value` in float32, in which the graph goes on from here."""
        if not self._half:
            return value
        self._half = False
        return self.op("Cast", value, to=onnx.TensorProto.FLOAT)

    def op(self, kind: str, *inputs: Value, domain: str = "", **attributes: Any) -> Value:
        """Add a node with one output and return that output; "" leaves out an optional input."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: Value, outputs: int, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """Add a node with several outputs and return them."""
        names = [f"{self._prefix}t{len(self._graph.node)}_{i}" for i in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, domain=domain, **attributes)
        self._graph.node.append(node)
        return names

    def output(self, name: str, value: Value, dtype: int, shape: Sequence[int | str]) -> None:
        """Publish `value` under `name`."""
        self._graph.node.append(helper.make_node("Identity", [value], [name]))
        self._graph.output.append(helper.make_tensor_value_info(name, dtype, shape))

    def model(self, graph_name: str) -> onnx.ModelProto:
        """Name the finished model and return it, not yet checked; call it once, at the end."""
        self._graph.name = graph_name
        self._model.opset_import.extend(
            [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB_DOMAIN, 1)]
        )
        return self._model

    def prepend_to(self, model: onnx.ModelProto) -> None:
        """Put nodes and constants before those of a model, and the inputs in place of its own."""
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*self._graph.node, *rest])
        model.graph.initializer.extend(self._graph.initializer)
        del model.graph.input[:]
        model.graph.input.extend(self._graph.input)

    def append_to(self, model: onnx.ModelProto) -> None:
        """Put nodes and constants after those of a model, and the outputs in place of its own."""
        model.graph.node.extend(self._graph.node)
        model.graph.initializer.extend(self._graph.initializer)
        del model.graph.output[:]
        model.graph.output.extend(self._graph.output)

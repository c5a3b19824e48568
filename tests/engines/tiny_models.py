"""ONNX models of one or two nodes, and folders that hold them as Triton's repositories do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import TensorProto, helper

from vecserve.inference import model_config_pb2
from vecserve_server.model_files.datatypes import Datatype

Shape = Sequence[int | str]
ELEMENT_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
VOCABULARY = 8


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def value(name: str, shape: Shape | None, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def identity(shape: Shape, datatype: Datatype | None = None) -> onnx.ModelProto:
    """y = x."""
    element = ELEMENT_TYPES[datatype.name] if datatype else TensorProto.FLOAT
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    return model(nodes, [value("x", shape, element)], [value("y", shape, element)])


def sum_and_double(shape: Shape = ("n", "t")) -> onnx.ModelProto:
    """sum [N, 1] over the last dimension of x [N, T], and double = x + x."""
    axes = onnx.numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1),
        helper.make_node("Add", ["x", "x"], ["double"]),
    ]
    outputs = [value("sum", [shape[0], 1]), value("double", shape)]
    return model(nodes, [value("x", shape)], outputs, [axes])


def table_lookup() -> onnx.ModelProto:
    """row = table[id] for id [N, 1], where table[i] = 10 i; fails for ids outside VOCABULARY."""
    table = onnx.numpy_helper.from_array(np.arange(VOCABULARY, dtype=np.float32) * 10, "table")
    nodes = [helper.make_node("Gather", ["table", "id"], ["row"])]
    ids = value("id", ["n", 1], TensorProto.INT64)
    return model(nodes, [ids], [value("row", ["n", 1])], [table])


def scaled() -> onnx.ModelProto:
    """y = x * factor for x [N]; factor [1] is an initialiser, 3, that a caller may replace."""
    factor = onnx.numpy_helper.from_array(np.array([3], np.float32), "factor")
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    inputs = [value("x", ["n"]), value("factor", [1])]
    return model(nodes, inputs, [value("y", ["n"])], [factor])


def endless() -> onnx.ModelProto:
    """y = x for x [1], after a loop that does not end where x > 0."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", [1])],
        [value("on", [], TensorProto.BOOL), value("w", [1])],
    )
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Squeeze", ["positive"], ["go_on"]),
        helper.make_node("Loop", ["", "go_on", "x"], ["y"], body=body),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0])
    return model(nodes, [value("x", [1])], [value("y", [1])], [zero])


def save(root: Path, proto: onnx.ModelProto, *, name: str = "m", version: int = 1) -> Path:
    """Write the model into a repository; return the model's folder."""
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    onnx.save(proto, folder / "model.onnx")
    return folder.parent


def config(text: str) -> model_config_pb2.ModelConfig:
    """Parse a configuration."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())

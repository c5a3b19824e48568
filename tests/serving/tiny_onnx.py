"""ONNX models of one addition, which tell by their answers which version gave them."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper


def graph_bytes(addend: float) -> bytes:
    """`y = x + addend`, with batches."""
    shape: list[str | int | None] = ["batch", 1]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "addend"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("addend", TensorProto.FLOAT, [1], [addend])],
    )
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def config_text(name: str, more: str = "") -> str:
    """Return a config.pbtxt with an instance of one thread."""
    return (
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
        "instance_group { kind: KIND_CPU count: 1 }\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
        f"{more}\n"
    )


def add_version(root: Path, name: str, version: int, *, addend: float | None = None) -> None:
    """Put a version there whole; by default it adds its number."""
    staged = root / f".staged-{name}-{version}"
    staged.mkdir(parents=True)
    (staged / "model.onnx").write_bytes(graph_bytes(version if addend is None else addend))
    (root / name).mkdir(exist_ok=True)
    staged.rename(root / name / str(version))

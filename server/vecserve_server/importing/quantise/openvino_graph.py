"""Rewrite a packed-rows graph, read by OpenVINO, into the form that its CPU plugin runs fastest.

Owns the patterns; every rewrite keeps the graph's values. Must not know quantisation, files or
architectures: what does not match a pattern stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.engines.openvino.runtime import openvino_opset

_TOKENWISE = frozenset(
    {
        "Add",
        "Convert",
        "Divide",
        "Elu",
        "Gelu",
        "HSwish",
        "HardSigmoid",
        "MVN",
        "Maximum",
        "Minimum",
        "Mish",
        "Multiply",
        "Negative",
        "PRelu",
        "Power",
        "Relu",
        "Selu",
        "Sigmoid",
        "SoftPlus",
        "SoftSign",
        "Sqrt",
        "Subtract",
        "Swish",
        "Tanh",
    }
)
"""Operators that give the same values for [R, L, K] as for [T, K]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearBlock:
    """A product with constant weights: `source` @ `weight`.T + `bias`."""

    node: Any
    """The last node of the block: the sum with the bias, or the product."""
    source: Any
    """The output that goes in, [R, L, K]."""
    weight: NDArray[np.float32]
    """[N, K]."""
    bias: NDArray[np.float32] | None
    """[N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBlock:
    """Attention, written out."""

    inputs: tuple[Any, Any, Any]
    """Outputs of linear blocks that hold queries, keys and values: [R, L, hidden]."""
    weights: Any
    """The output that holds how much each token takes of each other one: [R, H, L, L]."""


def rewrite(model: Any) -> list[AttentionBlock | None]:
    """Change the model in place; return its attentions, None for one whose inputs are no products.

    Such are queries and keys that were rotated.
    """
    _drop_multiplications_by_one(model)
    _split_fused_projections(model)
    written_out = _write_out_attention(model)
    _lift_tokens(model)
    model.validate_nodes_and_infer_types()
    return [_attention_block(*outputs) for outputs in written_out]


def linear_blocks(model: Any) -> list[LinearBlock]:
    """Return the products with constant weights over tokens [R, L, K], in order."""
    blocks = (_linear_block(node) for node in model.get_ordered_ops())
    return [block for block in blocks if block is not None and _rank(block.source) == 3]


def redirect(old: Any, new: Any, *, but: Sequence[Any] = ()) -> None:
    """Let every reader of output `old` read output `new`, except the nodes in `but`."""
    names = {node.get_name() for node in but}
    for reader in list(old.get_target_inputs()):
        if reader.get_node().get_name() not in names:
            reader.replace_source_output(new)


def constant_of(output: Any) -> NDArray[Any] | None:
    """Return the values of an output that a constant gives, else None."""
    node = output.get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _kind(output: Any) -> str:
    return str(output.get_node().get_type_name())


def _rank(output: Any) -> int:
    return len(output.get_partial_shape())


def _drop_multiplications_by_one(model: Any) -> None:
    """Remove what is left of the factors of ONNX's Gemm."""
    op = openvino_opset()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        left, right = constant_of(node.input_value(0)), constant_of(node.input_value(1))
        if left is not None and right is not None:
            redirect(node.output(0), op.constant(left * right).output(0))
        elif right is not None and np.all(right == 1):
            redirect(node.output(0), node.input_value(0))
    model.validate_nodes_and_infer_types()


def _linear_block(node: Any) -> LinearBlock | None:
    """Read the block that ends in this node."""
    bias = None
    product = node
    if node.get_type_name() == "Add":
        bias = constant_of(node.input_value(1))
        product = node.input_value(0).get_node()
        if bias is None:
            return None
    if product.get_type_name() != "MatMul" or constant_of(product.input_value(1)) is None:
        return None
    if bias is None and _has_bias(product):
        return None  # its sum is the block
    weight = product.input_value(1).get_node().data
    settings = product.get_attributes()
    if weight.ndim != 2 or settings["transpose_a"]:
        return None
    weight = np.array(weight if settings["transpose_b"] else weight.T, np.float32)
    if bias is not None:
        # A single number where ONNX's Gemm has no bias.
        bias = np.broadcast_to(bias.reshape(-1), len(weight)).astype(np.float32)
    return LinearBlock(node=node, source=product.input_value(0), weight=weight, bias=bias)


def _has_bias(product: Any) -> bool:
    readers = list(product.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "Add":
        return False
    return constant_of(readers[0].get_node().input_value(1)) is not None


def _split_fused_projections(model: Any) -> None:
    """Turn one wide product that is split afterwards into several: a copy less."""
    op = openvino_opset()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Split":
            continue
        block = _linear_block(node.input_value(0).get_node())
        if block is None:
            continue
        count = node.get_output_size()
        for index, weight in enumerate(np.split(block.weight, count)):
            part = op.matmul(block.source, _constant(weight), False, True)
            if block.bias is not None:
                part = op.add(part, _constant(np.split(block.bias, count)[index][None]))
            redirect(node.output(index), part.output(0))
    model.validate_nodes_and_infer_types()


def _write_out_attention(model: Any) -> list[tuple[Any, Any, Any, Any]]:
    """Replace each fused attention by its products, which are quantised and fused better.

    Leaves out the guard against rows of which everything is masked: a token sees itself. Returns
    the outputs that hold queries, keys, values [R, H, L, d] and weights, of each.
    """
    op = openvino_opset()
    written_out = []
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        query, key, value, bias = (node.input_value(index) for index in range(4))
        width = query.get_partial_shape()[3].get_length()
        given = node.input_value(4).get_node().data if node.get_input_size() > 4 else width**-0.5
        scale = _constant(np.full((1, 1, 1, 1), given, np.float32))
        scores = op.add(op.multiply(op.matmul(query, key, False, True), scale), bias)
        weights = op.softmax(scores, -1)
        mixed = op.matmul(weights, value, False, False)
        redirect(_without_guard(node).output(0), mixed.output(0))
        written_out.append((query, key, value, weights.output(0)))
    return written_out


def _attention_block(query: Any, key: Any, value: Any, weights: Any) -> AttentionBlock | None:
    query, key, value = (_before_heads(output) for output in (query, key, value))
    if query is None or key is None or value is None:
        return None
    return AttentionBlock(inputs=(query, key, value), weights=weights)


def _without_guard(attention: Any) -> Any:
    """Return the Select that replaces NaN, where one follows, else the node itself."""
    readers = [reader.get_node() for reader in attention.output(0).get_target_inputs()]
    if any(reader.get_type_name() == "IsNaN" for reader in readers):
        return next(reader for reader in readers if reader.get_type_name() == "Select")
    return attention


def _before_heads(output: Any) -> Any | None:
    """Return the linear block's output that only reshaping separates from this one."""
    while _kind(output) in ("Transpose", "Reshape"):
        output = output.get_node().input_value(0)
    block = _linear_block(output.get_node())
    return output if block is not None and _rank(output) == 3 else None


def _lift_tokens(model: Any) -> None:
    """Carry tokens as rows [R, L] and their states as [R, L, K], from the inputs to the pooling.

    Their shapes then follow from those of the inputs alone, and the plugin fuses scaling and
    quantisation into their neighbours for that rank only.
    """
    ports: set[tuple[str, int]] = set()
    for node in model.get_ordered_ops():
        name = node.get_name()
        inputs = [index for index in range(node.get_input_size()) if (name, index) in ports]
        if _is_flattening(node):
            ports |= _readers(node)
            redirect(node.output(0), node.input_value(0))
        elif inputs == [0] and _is_unflattening(node):
            redirect(node.output(0), node.input_value(0))
        elif inputs and _keeps_rows(node, inputs):
            ports |= _readers(node)
        else:
            for index in inputs:
                _flatten_input(node, index)


def _readers(node: Any) -> set[tuple[str, int]]:
    readers = node.output(0).get_target_inputs()
    return {(reader.get_node().get_name(), reader.get_index()) for reader in readers}


def _is_flattening(node: Any) -> bool:
    """Whether a node makes [T] of [R, L] or [T, K] of [R, L, K]."""
    if node.get_type_name() != "Reshape":
        return False
    target = constant_of(node.input_value(1))
    rank = _rank(node.input_value(0))
    return target is not None and target[0] == -1 and len(target) == rank - 1 in (1, 2)


def _is_unflattening(node: Any) -> bool:
    """Whether a node makes [R, L, K] of [T, K]."""
    if node.get_type_name() != "Reshape" or _rank(node.output(0)) != 3:
        return False
    old, new = node.input_value(0).get_partial_shape(), node.get_output_partial_shape(0)
    return bool(new[2].is_static and old[len(old) - 1] == new[2])


def _keeps_rows(node: Any, inputs: list[int]) -> bool:
    """Whether a node gives rows of the same values for rows."""
    others = [index for index in range(node.get_input_size()) if index not in inputs]
    constant = all(constant_of(node.input_value(index)) is not None for index in others)
    kind = node.get_type_name()
    if kind == "Gather":
        return inputs == [1] and constant and _rank(node.input_value(0)) == 2
    if kind == "MatMul":
        return inputs == [0] and constant
    return kind in _TOKENWISE and (constant or kind == "MVN")


def _flatten_input(node: Any, index: int) -> None:
    """Give a node that takes [T] or [T, K] what it expects."""
    op = openvino_opset()
    source = node.input_value(index)
    width = source.get_partial_shape()[-1]
    shape = [-1, width.get_length()] if width.is_static else [-1]
    flat = op.reshape(source, op.constant(np.array(shape, np.int64)), False)
    node.input(index).replace_source_output(flat.output(0))


def _constant(values: NDArray[np.float32]) -> Any:
    return openvino_opset().constant(np.ascontiguousarray(values))

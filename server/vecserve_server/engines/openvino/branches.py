"""One model with a branch for each of a few shapes.

Owns the tree of branches; its vectors are, bit for bit, those of the model it was made from. Must
not know engines, threads or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vecserve_server.domain.shapes import Shape
from vecserve_server.engines.openvino.runtime import openvino_module, openvino_opset

_TOKENS = "input_ids"
_KEY = "key"
_ROW = 1 << 16
"""A shape's key is rows times this + width."""
_KEYS = 1 << 31
"""The CPU plugin computes in 32 bits."""


def with_branches(model: Any, shapes: Sequence[Shape]) -> Any:
    """Return a model that runs grids of these shapes in branches of their own; keeps the model.

    In a branch the shape is fixed, so its kernels and buffers are found once, not in every run.
    Grids of other shapes run as before. Inputs of one dimension stay free: how many sequences
    there are matters to the last few nodes only.

    Branches, rather than a model for each shape, for two reasons. They share the streams of one
    compiled model, and with them the threads. And outside of branches the CPU plugin fuses chains
    of elementwise operators where shapes are fixed, but not where they vary; that rounds
    differently, int8 codes flip, and a vector would depend on the shape of its run.
    """
    op = openvino_opset()
    inputs = {_name(node): _like(node) for node in model.get_parameters()}
    keys = sorted(_key(shape) for shape in shapes)
    key = _key_of(inputs[_TOKENS])
    known = op.reduce_logical_or(
        op.equal(key, _number(*keys)), op.constant(np.array([0], np.int64)), keep_dims=True
    )
    given = {**{name: node.output(0) for name, node in inputs.items()}, _KEY: key.output(0)}
    outputs = _choose(known, _tree(model, keys), _fixed(model, None), given)
    results = [op.result(output) for output in outputs]
    return openvino_module().Model(results, list(inputs.values()))


def _tree(model: Any, keys: Sequence[int]) -> Any:
    """Return a model that finds the key, which is one of these, by halving."""
    op = openvino_opset()
    if len(keys) == 1:
        return _fixed(model, keys[0])
    half = len(keys) // 2
    inputs = {_name(node): _like(node) for node in model.get_parameters()}
    inputs[_KEY] = op.parameter([1], np.int64, name=_KEY)
    _set_name(inputs[_KEY].output(0), _KEY)
    low = op.less(inputs[_KEY], _number(keys[half]))
    given = {name: node.output(0) for name, node in inputs.items()}
    outputs = _choose(low, _tree(model, keys[:half]), _tree(model, keys[half:]), given)
    return openvino_module().Model([op.result(output) for output in outputs], list(inputs.values()))


def _choose(condition: Any, then: Any, otherwise: Any, given: Mapping[str, Any]) -> list[Any]:
    """Return the outputs of the one model or the other."""
    branch = openvino_opset().if_op(condition.output(0))
    branch.set_then_body(then)
    branch.set_else_body(otherwise)
    bodies = [{_name(node): node for node in body.get_parameters()} for body in (then, otherwise)]
    for name, output in given.items():
        if name in bodies[0] or name in bodies[1]:  # a single shape needs no key any more
            branch.set_input(output, bodies[0].get(name), bodies[1].get(name))
    outputs = []
    for one, other in zip(then.get_results(), otherwise.get_results(), strict=True):
        output = branch.set_output(one, other)
        _set_name(output, one.get_output_tensor(0).get_any_name())
        outputs.append(output)
    return outputs


def _fixed(model: Any, key: int | None) -> Any:
    """Return a copy whose grids have the shape of this key; of any shape where it is None."""
    op = openvino_opset()
    copy = model.clone()
    for node in copy.get_parameters():
        if key is not None and len(node.get_output_partial_shape(0)) > 1:
            readers = list(node.output(0).get_target_inputs())
            shape = op.constant(np.array(divmod(key, _ROW), np.int64))
            fixed = op.reshape(node, shape, False)
            for reader in readers:
                reader.replace_source_output(fixed.output(0))
    copy.validate_nodes_and_infer_types()
    return copy


def _key(shape: Shape) -> int:
    key = shape.rows * _ROW + shape.width
    if shape.width >= _ROW or key >= _KEYS:
        raise ValueError(f"{shape.rows} rows of {shape.width} tokens have no key of 32 bits")
    return key


def _key_of(tokens: Any) -> Any:
    op = openvino_opset()
    weighted = op.multiply(op.shape_of(tokens), _number(_ROW, 1))
    return op.reduce_sum(weighted, op.constant(np.array([0], np.int64)), keep_dims=True)


def _number(*values: int) -> Any:
    return openvino_opset().constant(np.array(values, np.int64))


def _name(parameter: Any) -> str:
    return str(parameter.get_output_tensor(0).get_any_name())


def _like(parameter: Any) -> Any:
    copy = openvino_opset().parameter(
        parameter.get_output_partial_shape(0), parameter.get_output_element_type(0)
    )
    _set_name(copy.output(0), _name(parameter))
    return copy


def _set_name(output: Any, name: str) -> None:
    output.get_tensor().set_names({name})

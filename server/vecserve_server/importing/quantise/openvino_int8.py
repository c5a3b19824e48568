"""Place the quantisers of static int8 in a graph for OpenVINO.

Owns the placement: codes in and out of linear blocks, and between the two products of attention.
Must not know checkpoints, files or how ranges are learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.engines.openvino.runtime import openvino_opset
from vecserve_server.errors import ModelError
from vecserve_server.importing.graph.int8 import LEVELS, STEPS, quantise_rows
from vecserve_server.importing.graph.linear import BlockCalibration
from vecserve_server.importing.quantise.calibration import Calibration
from vecserve_server.importing.quantise.openvino_graph import (
    AttentionBlock,
    LinearBlock,
    linear_blocks,
    redirect,
    rewrite,
)


def quantise(model: Any, calibration: Calibration) -> None:
    """Turn an fp32 packed-rows model into a static int8 one, in place.

    Raises `ModelError` for the calibration of another architecture.
    """
    attentions = rewrite(model)
    groups = _by_source(linear_blocks(model))
    learnt = list(calibration.blocks.values())
    _check_fits(groups, attentions, learnt, calibration.peaks)
    replaced: dict[str, Any] = {}
    for group, block_learnt in zip(groups, learnt, strict=True):
        _quantise_group(group, block_learnt, replaced)
    for attention, peaks in zip(attentions, calibration.peaks, strict=True):
        if attention is not None:
            for output, peak in zip(attention.inputs, peaks, strict=True):
                _quantise_end(replaced[output.get_node().get_name()], -peak * 128 / LEVELS, peak)
            _quantise_end(attention.weights, 0.0, 1.0)
    model.validate_nodes_and_infer_types()
    _name_in_order(model)


def _check_fits(
    groups: Sequence[Sequence[LinearBlock]],
    attentions: Sequence[AttentionBlock | None],
    learnt: Sequence[BlockCalibration],
    peaks: NDArray[np.float32],
) -> None:
    found = [
        (group[0].weight.shape[1], sum(len(block.weight) for block in group)) for group in groups
    ]
    known = [(len(block.factors), len(block.correction)) for block in learnt]
    if found != known or len(attentions) != len(peaks):
        raise ModelError("the calibration is that of another architecture")


def _by_source(blocks: Sequence[LinearBlock]) -> list[list[LinearBlock]]:
    """Put together the blocks that read one output, such as queries, keys and values."""
    groups: dict[tuple[str, int], list[LinearBlock]] = {}
    for block in blocks:
        key = (block.source.get_node().get_name(), block.source.get_index())
        groups.setdefault(key, []).append(block)
    return list(groups.values())


def _quantise_group(
    group: Sequence[LinearBlock], learnt: BlockCalibration, replaced: dict[str, Any]
) -> None:
    """Replace the blocks; notes each one's new output by the name of its old last node."""
    codes = _quantised_input(group[0].source, learnt)
    ends = np.cumsum([len(block.weight) for block in group])[:-1]
    for block, correction in zip(group, np.split(learnt.correction, ends), strict=True):
        result = _quantised_product(block, codes, learnt.factors, correction)
        redirect(block.node.output(0), result)
        replaced[block.node.get_name()] = result


def _quantised_input(source: Any, learnt: BlockCalibration) -> Any:
    op = openvino_opset()
    divided = op.multiply(source, _constant((1 / learnt.factors)[None, None]))
    limits = [_constant(np.full((1, 1, 1), limit)) for limit in (learnt.low, learnt.high)]
    return op.fake_quantize(divided, *limits, *limits, STEPS + 1)


def _quantised_product(
    block: LinearBlock, codes: Any, factors: NDArray[np.float32], correction: NDArray[np.float32]
) -> Any:
    op = openvino_opset()
    weight_codes, scale = quantise_rows(block.weight * factors)
    weight = op.multiply(op.convert(op.constant(weight_codes), "f32"), _constant(scale))
    bias = correction if block.bias is None else block.bias + correction
    product = op.matmul(codes, weight, False, True)
    return op.add(product, _constant(bias[None, None])).output(0)


def _quantise_end(output: Any, low: float, high: float) -> None:
    """Let every reader of an output read its codes."""
    op = openvino_opset()
    rank = len(output.get_partial_shape())
    limits = [_constant(np.full((1,) * rank, limit)) for limit in (low, high)]
    codes = op.fake_quantize(output, *limits, *limits, STEPS + 1)
    redirect(output, codes.output(0), but=[codes])


def _name_in_order(model: Any) -> None:
    """Give nodes names that do not depend on what this process built before."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"n{number}")


def _constant(values: NDArray[Any]) -> Any:
    return openvino_opset().constant(np.ascontiguousarray(values, np.float32))

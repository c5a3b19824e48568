"""Static int8 for OpenVINO: learn the ranges of activations, then place the quantisers.

Owns the scheme: int8 weights with one scale per output channel; uint8 activations with one range
for all tokens, fixed by the calibration, so that a text's vector does not depend on its batch;
smoothing (SmoothQuant, Xiao et al. 2023) over all inputs of linear blocks, int8 queries and keys,
and the correction of the mean error of each output. Must not know checkpoints or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.encoding.openvino_runtime import openvino_module, openvino_opset
from vecserve_server.encoding.packing import pack, plan_rows
from vecserve_server.errors import ModelError
from vecserve_server.export.openvino_graph import (
    LinearBlock,
    linear_blocks,
    redirect,
    rewrite,
)

_SMOOTHING = 0.75
_SMALLEST = 1e-4
_TINY = 1e-9
_SAMPLED_TOKENS = 2048
_ROW_TOKENS = 128
_STEPS = 255
_WEIGHT_LEVELS = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learnt about a model: by linear input, by linear block, and by query or key."""

    factors: Sequence[NDArray[np.float32]]
    """What each channel [K] of an input is divided by, and its weights are multiplied by."""
    ranges: Sequence[tuple[float, float]]
    """Lowest and highest value of a divided input."""
    corrections: Sequence[NDArray[np.float32]]
    """What a block's output [N] lacks on average."""
    peaks: Sequence[float]
    """Largest magnitude of the queries or keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Observed:
    """What an output was seen to hold: per channel extremes [K], and some of its tokens [S, K]."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    sample: Vectors


@dataclass(frozen=True, slots=True)
class _Parts:
    """What of a rewritten model gets quantised."""

    groups: Sequence[Sequence[LinearBlock]]
    """Linear blocks by the input that they share, such as queries, keys and values."""
    heads: Sequence[Any]
    """The outputs that are queries and keys."""


def calibrate(model: Any, sequences: Sequence[TokenIds]) -> Calibration:
    """Learn from sequences, a hundred or more and as varied as the traffic; keeps the model."""
    copy = model.clone()
    parts = _parts(copy)
    sources = [group[0].source for group in parts.groups]
    observed = _observe(copy, [*sources, *parts.heads], sequences)
    factors, ranges, corrections = [], [], []
    for group, seen in zip(parts.groups, observed, strict=False):
        divided_by = _smoothing_factors(seen, np.concatenate([block.weight for block in group]))
        span = _range((seen.low / divided_by).min(), (seen.high / divided_by).max())
        factors.append(divided_by)
        ranges.append(span)
        rounded = _rounded(seen.sample / divided_by, span)
        corrections += [_correction(block, seen.sample, rounded, divided_by) for block in group]
    peaks = [
        max(float(np.maximum(-seen.low, seen.high).max()), _SMALLEST)
        for seen in observed[len(sources) :]
    ]
    return Calibration(factors=factors, ranges=ranges, corrections=corrections, peaks=peaks)


def quantise(model: Any, calibration: Calibration) -> None:
    """Turn an fp32 packed-rows model into a static int8 one, in place.

    Raises `ModelError` for the calibration of another architecture.
    """
    parts = _parts(model)
    _check_fits(parts, calibration)
    corrections = iter(calibration.corrections)
    replaced: dict[str, Any] = {}
    for group, factors, span in zip(
        parts.groups, calibration.factors, calibration.ranges, strict=True
    ):
        codes = _quantised_input(group[0].source, factors, span)
        for block in group:
            result = _quantised_product(block, codes, factors, next(corrections))
            redirect(block.node.output(0), result)
            replaced[block.node.get_name()] = result
    for head, peak in zip(parts.heads, calibration.peaks, strict=True):
        _quantise_head(replaced[head.get_node().get_name()], peak)
    model.validate_nodes_and_infer_types()
    _name_in_order(model)


def _parts(model: Any) -> _Parts:
    attentions = rewrite(model)
    heads = [output for block in attentions for output in (block.query, block.key)]
    return _Parts(_by_source(linear_blocks(model)), heads)


def _check_fits(parts: _Parts, calibration: Calibration) -> None:
    found = [group[0].weight.shape[1] for group in parts.groups]
    blocks = [len(block.weight) for group in parts.groups for block in group]
    fits = (
        found == [len(factors) for factors in calibration.factors]
        and blocks == [len(correction) for correction in calibration.corrections]
        and len(parts.heads) == len(calibration.peaks)
    )
    if not fits:
        raise ModelError("the calibration is that of another architecture")


def _by_source(blocks: Sequence[LinearBlock]) -> list[list[LinearBlock]]:
    """Put together the blocks that read one output, such as queries, keys and values."""
    groups: dict[tuple[str, int], list[LinearBlock]] = {}
    for block in blocks:
        key = (block.source.get_node().get_name(), block.source.get_index())
        groups.setdefault(key, []).append(block)
    return list(groups.values())


def _observe(model: Any, outputs: Sequence[Any], sequences: Sequence[TokenIds]) -> list[_Observed]:
    """Run the sequences and gather what the outputs hold."""
    op, core = openvino_opset(), openvino_module().Core()
    results = [op.result(output) for output in outputs]
    model.add_results(results)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    first = len(model.outputs) - len(results)
    gathered = [_Gathered() for _ in outputs]
    share = np.random.default_rng(0)
    wanted = _SAMPLED_TOKENS / max(1, sum(map(len, sequences)))
    lengths = [len(sequence) for sequence in sequences]
    # One shape for all runs: the engine prepares code for every new one.
    shape = (1, max(_ROW_TOKENS, *lengths))
    for row in plan_rows(lengths, shape[1]):
        feeds = pack(sequences, [row], shape)
        request.infer(feeds)
        real = feeds["segment_ids"].reshape(-1) >= 0
        kept = share.random(np.count_nonzero(real)) < wanted
        for i, found in enumerate(gathered):
            states = request.get_output_tensor(first + i).data
            found.add(states.reshape(-1, states.shape[-1])[real], kept)
    for result in results:
        model.remove_result(result)
    return [found.observed() for found in gathered]


class _Gathered:
    """What one output held so far."""

    def __init__(self) -> None:
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._samples: list[Vectors] = []

    def add(self, states: Vectors, kept: NDArray[np.bool_]) -> None:
        """Take the states [T, K] of a run, and those of the kept tokens into the sample."""
        self._low = np.minimum(self._low, states.min(axis=0))
        self._high = np.maximum(self._high, states.max(axis=0))
        self._samples.append(states[kept])

    def observed(self) -> _Observed:
        """Return it all."""
        return _Observed(low=self._low, high=self._high, sample=np.concatenate(self._samples))


def _quantised_input(source: Any, factors: NDArray[np.float32], span: tuple[float, float]) -> Any:
    op = openvino_opset()
    divided = op.multiply(source, _constant((1 / factors)[None, None]))
    limits = [_constant(np.full((1, 1, 1), limit)) for limit in span]
    return op.fake_quantize(divided, *limits, *limits, _STEPS + 1)


def _quantised_product(
    block: LinearBlock, codes: Any, factors: NDArray[np.float32], correction: NDArray[np.float32]
) -> Any:
    op = openvino_opset()
    weight_codes, scale = _quantise_rows(block.weight * factors)
    weight = op.multiply(op.convert(op.constant(weight_codes), "f32"), _constant(scale))
    bias = correction if block.bias is None else block.bias + correction
    product = op.matmul(codes, weight, False, True)
    return op.add(product, _constant(bias[None, None])).output(0)


def _quantise_head(output: Any, peak: float) -> None:
    """Make queries or keys int8, symmetric, where their linear block ends."""
    op = openvino_opset()
    lowest = -peak * (_WEIGHT_LEVELS + 1) / _WEIGHT_LEVELS
    limits = [_constant(np.full((1, 1, 1), limit)) for limit in (lowest, peak)]
    codes = op.fake_quantize(output, *limits, *limits, _STEPS + 1)
    redirect(output, codes.output(0), but=[codes])


def _correction(
    block: LinearBlock, sample: Vectors, rounded: Vectors, factors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the mean error of each output [N] over the sampled tokens."""
    codes, scale = _quantise_rows(block.weight * factors)
    error = sample @ block.weight.T - rounded @ (codes * scale).T
    return np.asarray(error.mean(axis=0), np.float32)


def _rounded(x: Vectors, span: tuple[float, float]) -> Vectors:
    """Return x as it is after quantisation."""
    low, high = span
    step = (high - low) / _STEPS
    codes = np.clip(np.rint((x - low) / step), 0, _STEPS)
    return np.asarray(codes * step + low, np.float32)


def _smoothing_factors(seen: _Observed, weight: Vectors) -> NDArray[np.float32]:
    """Return what each input channel [K] is divided by and its weights are multiplied by."""
    inputs = np.maximum(np.maximum(-seen.low, seen.high), _SMALLEST) ** _SMOOTHING
    outputs = np.maximum(np.abs(weight).max(axis=0), _SMALLEST) ** (1 - _SMOOTHING)
    factors = inputs / outputs
    return np.asarray(factors / np.median(factors), np.float32)


def _range(low: float, high: float) -> tuple[float, float]:
    """Widen to include 0, and shift by less than a step so that 0 is a code."""
    low, high = min(float(low), 0.0), max(float(high), _SMALLEST)
    step = (high - low) / _STEPS
    zero = round(-low / step)
    return -zero * step, (_STEPS - zero) * step


def _quantise_rows(weight: Vectors) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 codes [N, K] and scales [N, 1]."""
    peak = np.maximum(np.abs(weight).max(axis=1, keepdims=True), _TINY)
    scale = np.asarray(peak / _WEIGHT_LEVELS, np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _name_in_order(model: Any) -> None:
    """Give nodes names that do not depend on what this process built before."""
    for number, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"n{number}")


def _constant(values: NDArray[Any]) -> Any:
    return openvino_opset().constant(np.ascontiguousarray(values, np.float32))

"""Learn how large each channel of the activations gets.

Owns the recording of block inputs in an fp32 graph. Must not know how int8 uses the figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.export.blocks import packed_rows
from vecserve_server.export.encoder_graph import family_for
from vecserve_server.export.family import EncoderParts, ModelConfigJson, Weights
from vecserve_server.export.graph import GraphBuilder, Value
from vecserve_server.export.linear import float_linear
from vecserve_server.export.sample_run import run_together, session_of


def channel_peaks(
    *, config: ModelConfigJson, weights: Weights, sequences: Sequence[TokenIds]
) -> Mapping[str, NDArray[np.float32]]:
    """Return the largest magnitude of each input channel [K] over the sequences' tokens.

    Covers the linear blocks that their family names for smoothing, by that name.
    """
    recorder = _RecordingLinear()
    session = session_of(lambda: _recording(recorder, config, weights))
    peaks = {name: np.zeros(width) for name, (_, width) in recorder.inputs.items()}
    for sequence in sequences:
        for name, states in zip(peaks, run_together(session, [sequence]), strict=True):
            peaks[name] = np.maximum(peaks[name], np.abs(states).max(axis=0))
    # Rounded, so that the last bits of a CPU's arithmetic don't change the exported file.
    return {name: np.round(peak, 2).astype(np.float32) for name, peak in peaks.items()}


def _recording(
    recorder: _RecordingLinear, config: ModelConfigJson, weights: Weights
) -> onnx.ModelProto:
    """Build the encoder in fp32, with the inputs of the named blocks as its outputs."""
    graph = GraphBuilder()
    rows = packed_rows(graph)
    family_for(config.architecture()).token_states(
        EncoderParts(graph=graph, rows=rows, config=config, weights=weights, linear=recorder)
    )
    for name, (value, width) in recorder.inputs.items():
        graph.output(name, value, onnx.TensorProto.FLOAT, ["T", width])
    return graph.model("calibration")


class _RecordingLinear:
    """Build fp32 blocks and remember what goes into those that are named."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Value, int]] = {}

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        smooth_as: str | None = None,
    ) -> Value:
        if smooth_as is not None:
            self.inputs[smooth_as] = (x, weight.shape[0])
        return float_linear(graph, x, weight, bias)

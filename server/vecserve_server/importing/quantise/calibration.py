"""Learn the ranges of a checkpoint's activations.

Owns what static int8 is built from, how it is learnt from an fp32 graph in ONNX Runtime, and the
calibration that ships with the product. Must not know how an engine places quantisers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.encoding.packing import plan_rows
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.families import family_for
from vecserve_server.importing.families.family import EncoderParts, ModelConfigJson, Weights
from vecserve_server.importing.graph.blocks import packed_rows
from vecserve_server.importing.graph.graph import GraphBuilder, Value
from vecserve_server.importing.graph.int8 import (
    SMALLEST,
    code_range,
    quantise_rows,
    rounded,
    smoothing_factors,
)
from vecserve_server.importing.graph.linear import BlockCalibration, float_linear
from vecserve_server.importing.quantise.sample_run import (
    CALIBRATION_NAME,
    CALIBRATION_TEXTS,
    run_together,
    session_of,
    tokenise,
)

_SAMPLED_TOKENS = 2048
_ROW_TOKENS = 128
_MIXED_TEXTS = 256
_LONGEST_WORDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learnt about a checkpoint."""

    blocks: Mapping[str, BlockCalibration]
    """By the linear block's name, in the order of the graph."""
    peaks: NDArray[np.float32]
    """Largest magnitude of queries, keys and values, float32 [attentions, 3]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSource:
    """What int8 is calibrated on."""

    name: str
    """What the card calls it."""
    texts: Sequence[str]
    ready: Calibration | None = None
    """What was learnt from them already."""


SHIPPED_TEXTS = CalibrationSource(name=CALIBRATION_NAME, texts=CALIBRATION_TEXTS)


def calibrate(
    *, config: ModelConfigJson, weights: Weights, sequences: Sequence[TokenIds]
) -> Calibration:
    """Learn from sequences, a hundred or more and as varied as the traffic."""
    recorder = _RecordingLinear()
    session = session_of(lambda: _recording(recorder, config, weights))
    inputs = [_Gathered() for _ in recorder.blocks]
    peaks = np.full(len(session.get_outputs()) - len(inputs), SMALLEST, np.float32)
    share = np.random.default_rng(0)
    lengths = [len(sequence) for sequence in sequences]
    wanted = _SAMPLED_TOKENS / max(1, sum(lengths))
    for row in plan_rows(lengths, _ROW_TOKENS):
        found = run_together(session, [sequences[index] for index in row])
        kept = share.random(sum(lengths[index] for index in row)) < wanted
        for gathered, states in zip(inputs, found, strict=False):
            gathered.add(states, kept)
        attended = found[len(inputs) :]
        peaks = np.maximum(peaks, [np.abs(states).max() for states in attended])
    blocks = {
        name: gathered.learn(weight)
        for (name, (_, weight)), gathered in zip(recorder.blocks.items(), inputs, strict=True)
    }
    return Calibration(blocks=blocks, peaks=np.asarray(peaks, np.float32).reshape(-1, 3))


def calibration_sequences(
    tokenizer_json: bytes, texts: Sequence[str], max_tokens: int
) -> list[TokenIds]:
    """Return the texts' ids, and those of mixtures of their words and of the vocabulary's.

    A few channels get their largest values from rare tokens, which no small set of texts holds.
    """
    share = np.random.default_rng(0)
    words = " ".join(texts).split()
    lengths = share.integers(3, _LONGEST_WORDS, _MIXED_TEXTS)
    mixed = [" ".join(share.choice(words, length)) for length in lengths]
    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    vocabulary = tokenizer.get_vocab_size()
    rare = [
        tokenizer.decode(share.integers(0, vocabulary, length).tolist())
        for length in share.integers(3, _LONGEST_WORDS, _MIXED_TEXTS)
    ]
    return tokenise(tokenizer_json, [*texts, *mixed, *rare], max_tokens)


def shipped_calibration(name: str) -> Calibration | None:
    """Return the calibration that ships for a model, if one does."""
    file = resources.files("vecserve_server.importing") / "data" / f"{name}.calibration.npz"
    return read_calibration(file.read_bytes()) if file.is_file() else None


def read_calibration(content: bytes) -> Calibration:
    """Read what `calibration_bytes` wrote."""
    with np.load(io.BytesIO(content)) as arrays:
        blocks = {
            str(name): BlockCalibration(
                factors=arrays[f"factors{index}"].astype(np.float32),
                low=float(low),
                high=float(high),
                correction=arrays[f"correction{index}"].astype(np.float32),
            )
            for index, (name, (low, high)) in enumerate(
                zip(arrays["names"], arrays["ranges"], strict=True)
            )
        }
        return Calibration(blocks=blocks, peaks=arrays["peaks"])


def calibration_bytes(calibration: Calibration) -> bytes:
    """Write a calibration, its long arrays as float16."""
    blocks = calibration.blocks.values()
    arrays: dict[str, NDArray[np.generic]] = {}
    for index, block in enumerate(blocks):
        arrays[f"factors{index}"] = block.factors.astype(np.float16)
        arrays[f"correction{index}"] = block.correction.astype(np.float16)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        allow_pickle=False,
        names=np.array(list(calibration.blocks)),
        ranges=np.array([(block.low, block.high) for block in blocks]),
        peaks=calibration.peaks,
        **arrays,
    )
    return content.getvalue()


class _Gathered:
    """What one linear block's input held so far."""

    def __init__(self) -> None:
        self._low: Vectors | None = None
        self._high: Vectors | None = None
        self._samples: list[Vectors] = []

    def add(self, states: Vectors, kept: NDArray[np.bool_]) -> None:
        """Take the states [T, K] of a run, and those of the kept tokens into the sample."""
        low, high = states.min(axis=0), states.max(axis=0)
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        self._samples.append(states[kept])

    def learn(self, weight: Vectors) -> BlockCalibration:
        """Choose the block's factors and range, and measure its mean error; weight [N, K]."""
        if self._low is None or self._high is None:
            raise ModelError("there are no texts to calibrate with")
        factors = smoothing_factors(self._low, self._high, weight)
        low, high = code_range((self._low / factors).min(), (self._high / factors).max())
        sample = np.concatenate(self._samples) / factors
        codes, scale = quantise_rows(weight * factors)
        exact = sample.mean(axis=0) @ (weight * factors).T
        found = rounded(sample, low, high).mean(axis=0) @ (codes * scale).T
        correction = np.asarray(exact - found, np.float32)
        return BlockCalibration(factors=factors, low=low, high=high, correction=correction)


class _RecordingLinear:
    """Build fp32 blocks and remember what goes into them."""

    def __init__(self) -> None:
        self.blocks: dict[str, tuple[Value, Vectors]] = {}

    def __call__(
        self,
        graph: GraphBuilder,
        x: Value,
        weight: Vectors,
        bias: NDArray[np.float32] | None,
        *,
        name: str,
    ) -> Value:
        self.blocks[name] = (x, weight.T)
        return float_linear(graph, x, weight, bias, name=name)


def _recording(
    recorder: _RecordingLinear, config: ModelConfigJson, weights: Weights
) -> onnx.ModelProto:
    """Build the encoder in fp32; its outputs are what goes into linear blocks and attentions."""
    graph = GraphBuilder()
    rows = packed_rows(graph)
    family_for(config).token_states(
        EncoderParts(graph=graph, rows=rows, config=config, weights=weights, linear=recorder)
    )
    for name, (value, weight) in recorder.blocks.items():
        graph.output(name, value, onnx.TensorProto.FLOAT, ["T", weight.shape[1]])
    model = graph.model("calibration")
    attended = [
        value
        for node in model.graph.node
        if node.op_type == "Attention"
        for value in node.input[:3]
    ]
    for number, value in enumerate(attended):
        name = f"attended{number}"
        model.graph.node.append(onnx.helper.make_node("Identity", [value], [name]))
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(output)
    return model

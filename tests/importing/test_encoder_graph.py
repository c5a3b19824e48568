"""The graph: a plain NumPy forward pass says what every text's vector must be."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.importing.tiny_bert import CONFIG, HIDDEN, VOCABULARY, random_tensors, token_states
from vecserve_server.domain.vectors import Vectors
from vecserve_server.encoding.packing import pack, plan_rows
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.encoder_graph import encoder_graph
from vecserve_server.importing.families.family import ModelConfigJson, Weights
from vecserve_server.importing.graph.graph import GraphBuilder
from vecserve_server.importing.graph.head import Head
from vecserve_server.importing.graph.int8 import code_range, smoothing_factors
from vecserve_server.importing.graph.linear import (
    BlockCalibration,
    Int8Linear,
    Linear,
    float_linear,
)
from vecserve_server.importing.quantise.calibration import Calibration, calibrate
from vecserve_server.importing.quantise.sample_run import session_of

SEQUENCES = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40), min_size=1, max_size=8
)
TENSORS = random_tensors()


def build(
    pooling: str = "mean", linear: Linear = float_linear, *, prefix: str = ""
) -> onnx.ModelProto:
    weights = Weights({prefix + name: tensor for name, tensor in TENSORS.items()})
    config = ModelConfigJson(CONFIG)
    head = Head(poolings=(pooling,))
    return encoder_graph(config=config, weights=weights, head=head, linear=linear)


def run(
    model: onnx.ModelProto,
    sequences: Sequence[Sequence[int]],
    row_tokens: int,
    output: str = "embedding",
) -> Vectors:
    """Return an output in the order of the sequences."""
    arrays = [np.array(sequence, np.int64) for sequence in sequences]
    rows = plan_rows([len(array) for array in arrays], row_tokens)
    found = session_of(lambda: model).run([output], pack(arrays, rows))[0]
    vectors: Vectors = np.empty_like(found)
    vectors[[index for row in rows for index in row]] = found
    return vectors


def expected(sequences: Sequence[Sequence[int]], pooling: str) -> NDArray[np.float64]:
    states = [token_states(TENSORS, sequence) for sequence in sequences]
    return np.stack([state.mean(axis=0) if pooling == "mean" else state[0] for state in states])


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(max_examples=25)
@given(
    sequences=SEQUENCES,
    row_tokens=st.integers(1, 64),
    pooling=st.sampled_from(["mean", "cls"]),
)
def test_fp32_is_the_forward_pass_however_the_rows_are_packed(
    sequences: list[list[int]], row_tokens: int, pooling: str
) -> None:
    model = build(pooling)
    vectors, norms = (run(model, sequences, row_tokens, name) for name in ("embedding", "norm"))

    exact = expected(sequences, pooling)
    np.testing.assert_allclose(vectors, unit(exact), atol=2e-5)
    np.testing.assert_allclose(norms, np.linalg.norm(exact, axis=1), rtol=1e-5)


@cache
def calibrated() -> Calibration:
    share = np.random.default_rng(0)
    samples = [share.integers(0, VOCABULARY, length) for length in [*range(1, 41)] * 4]
    return calibrate(config=ModelConfigJson(CONFIG), weights=Weights(TENSORS), sequences=samples)


@settings(max_examples=10)
@given(sequences=SEQUENCES, row_tokens=st.integers(1, 64))
def test_int8_is_close_to_the_forward_pass(sequences: list[list[int]], row_tokens: int) -> None:
    vectors = run(build(linear=Int8Linear(calibrated().blocks)), sequences, row_tokens)

    cosines = (vectors * unit(expected(sequences, "mean"))).sum(axis=1)
    assert cosines.min() >= 0.98  # very short texts come close to 0.987


def test_int8_survives_an_outlier_channel_with_smoothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, HIDDEN)).astype(np.float32)
    x[:, 3] *= 100
    weight = rng.normal(size=(HIDDEN, 16)).astype(np.float32)
    weight[3] /= 100
    low, high = x.min(axis=0), x.max(axis=0)

    def error(factors: NDArray[np.float32]) -> float:
        span = code_range(float((low / factors).min()), float((high / factors).max()))
        block = BlockCalibration(
            factors=factors, low=span[0], high=span[1], correction=np.zeros(16, np.float32)
        )
        graph = GraphBuilder()
        value = graph.input("x", onnx.TensorProto.FLOAT, ["T", HIDDEN])
        y = Int8Linear({"block": block})(
            graph, value, weight, np.zeros(16, np.float32), name="block"
        )
        graph.output("y", y, onnx.TensorProto.FLOAT, ["T", 16])
        found = session_of(lambda: graph.model("linear")).run(None, {"x": x})[0]
        return float(np.abs(found - x @ weight).mean())

    smooth = smoothing_factors(low, high, weight.T)
    assert error(smooth) < error(np.ones(HIDDEN, np.float32)) / 3


def test_a_block_that_was_not_calibrated_is_refused() -> None:
    with pytest.raises(ModelError, match="another architecture"):
        build(linear=Int8Linear({}))


def test_the_prefix_of_a_task_head_is_ignored() -> None:
    sequences = [[5, 6, 7]]

    np.testing.assert_array_equal(
        run(build(prefix="bert."), sequences, 8), run(build(), sequences, 8)
    )


def test_fp32_needs_standard_operators_only() -> None:
    assert {node.domain for node in build().graph.node} == {""}


def test_equal_constants_are_stored_once() -> None:
    graph = GraphBuilder()

    assert graph.const(np.ones(3)) == graph.const(np.ones(3))
    names = {
        graph.const(np.ones(3)),
        graph.const(np.ones(3, np.float32)),
        graph.const(np.ones((1, 3))),
        graph.const(np.float64(1)),
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architectures": ["MambaModel"]}, r"MambaModel is not supported \(supported: BertModel"),
        ({"architectures": []}, "architectures"),
        ({"hidden_act": "prelu"}, "'prelu' is not supported .*gelu"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "does not divide into 5 heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": 3}, r"tensor encoder\.layer\.2\.\S+ is missing"),
        ({"vocab_size": 7}, r"word_embeddings\.weight has shape \[300, 32\], expected \[7, 32\]"),
    ],
)
def test_what_cannot_be_built_is_named(change: dict[str, object], problem: str) -> None:
    config = ModelConfigJson({**CONFIG, **change})  # type: ignore[dict-item]
    head = Head(poolings=("mean",))

    with pytest.raises(ModelError, match=problem):
        encoder_graph(config=config, weights=Weights(TENSORS), head=head, linear=float_linear)


def test_an_unknown_pooling_is_named() -> None:
    with pytest.raises(
        ModelError, match=r"'median'\] is not supported \(supported: cls, max, mean,"
    ):
        build("median")

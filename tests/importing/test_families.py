"""Every family and pooling mode against what `transformers` computed from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.importing.tiny_families import HIDDEN, POOLINGS, TINY_FAMILIES, TinyFamily, sequences
from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.encoding.packing import pack, plan_rows
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.encoder_graph import encoder_graph
from vecserve_server.importing.families.families import family_for
from vecserve_server.importing.families.family import ModelConfigJson, Weights
from vecserve_server.importing.graph.head import Dense, Head, Normalise
from vecserve_server.importing.graph.linear import Int8Linear, Linear, float_linear
from vecserve_server.importing.quantise.calibration import calibrate
from vecserve_server.importing.quantise.sample_run import run_together, session_of

REFERENCE = Path(__file__).parents[1] / "data" / "family_reference.npz"
MEAN = POOLINGS.index("mean")


def of_every_family() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("family", TINY_FAMILIES, ids=lambda family: family.name)


def expected(family: TinyFamily) -> NDArray[np.float32]:
    """Return [poolings, sequences, hidden]."""
    with np.load(REFERENCE) as file:
        vectors: NDArray[np.float32] = file[family.name]
        return vectors


def parts(family: TinyFamily) -> tuple[ModelConfigJson, Weights]:
    return ModelConfigJson(family.config), Weights(family.tensors())


def embed(
    family: TinyFamily,
    head: Head,
    texts: Sequence[TokenIds],
    *,
    linear: Linear = float_linear,
    row_tokens: int = 128,
) -> Vectors:
    """Return embedding × norm in the order of the texts."""
    config, weights = parts(family)
    session = session_of(
        lambda: encoder_graph(config=config, weights=weights, head=head, linear=linear)
    )
    rows = plan_rows([len(text) for text in texts], row_tokens)
    embedding, norm = session.run(["embedding", "norm"], pack(texts, rows))
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    vectors: Vectors = np.empty_like(embedding)
    vectors[[index for row in rows for index in row]] = embedding * norm[:, None]
    return vectors


@of_every_family()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_family_gives_what_transformers_gives(family: TinyFamily, pooling: str) -> None:
    exact = expected(family)[POOLINGS.index(pooling)]
    head = Head(poolings=(pooling,))

    packed = embed(family, head, sequences())
    alone = np.concatenate([embed(family, head, [text]) for text in sequences()])

    assert np.abs(packed - exact).max() <= 1e-4
    assert np.abs(alone - exact).max() <= 1e-4


@of_every_family()
def test_a_text_does_not_depend_on_its_neighbours(family: TinyFamily) -> None:
    head = Head(poolings=("mean",))

    narrow, wide = (embed(family, head, sequences(), row_tokens=n) for n in (1, 256))

    np.testing.assert_allclose(narrow, wide, atol=2e-5)


@of_every_family()
def test_int8_is_close(family: TinyFamily) -> None:
    config, weights = parts(family)
    calibration = calibrate(config=config, weights=weights, sequences=sequences())

    exact = expected(family)[MEAN]
    linear = Int8Linear(calibration.blocks)
    found = embed(family, Head(poolings=("mean",)), sequences(), linear=linear)

    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1)
    cosines /= np.linalg.norm(exact, axis=1)
    assert cosines.min() >= 0.99


@of_every_family()
def test_fp16_is_close(family: TinyFamily) -> None:
    config, weights = parts(family)
    head = Head(poolings=("mean",))
    model = encoder_graph(config=config, weights=weights, head=head, linear=float_linear, half=True)
    onnx.checker.check_model(model, full_check=True)
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000]
    assert {tensor.data_type for tensor in large} == {onnx.TensorProto.FLOAT16}

    embedding, norm = run_together(session_of(lambda: model), sequences())

    exact = expected(family)[MEAN]
    np.testing.assert_allclose(embedding * norm[:, None], exact, atol=0.02)


@pytest.mark.parametrize(
    "modes", [("cls", "mean"), ("lasttoken", "max", "weightedmean"), POOLINGS], ids="+".join
)
def test_several_modes_are_joined_in_their_order(modes: tuple[str, ...]) -> None:
    family = TINY_FAMILIES[0]

    found = embed(family, Head(poolings=modes), sequences())

    exact = np.concatenate([expected(family)[POOLINGS.index(mode)] for mode in modes], axis=1)
    np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("identity", lambda x: x),
        ("tanh", np.tanh),
        ("relu", lambda x: np.maximum(x, 0)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("silu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_dense_modules_follow_the_pooling(
    name: str, function: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    family, rng = TINY_FAMILIES[0], np.random.default_rng(0)
    dense = [
        Dense(
            weight=rng.normal(size=(outputs, inputs)).astype(np.float32),
            bias=rng.normal(size=outputs).astype(np.float32) if outputs == 24 else None,
            activation=name,
        )
        for inputs, outputs in ((HIDDEN, 24), (24, 12))
    ]
    head = Head(poolings=("mean",), steps=(dense[0], Normalise(), dense[1]))

    found = embed(family, head, sequences())

    first = function(expected(family)[MEAN] @ dense[0].weight.T + dense[0].bias)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(found, function(first @ dense[1].weight.T), atol=1e-4)


def test_a_dense_module_of_another_width_is_refused() -> None:
    dense = Dense(weight=np.ones((3, 7), np.float32), bias=None, activation="tanh")

    with pytest.raises(ModelError, match="takes 7 inputs, it gets 32"):
        Head(poolings=("mean",), steps=(dense,)).dim(HIDDEN)


def test_a_vector_of_length_zero_stays_zero() -> None:
    family = TINY_FAMILIES[0]
    config, weights = parts(family)
    zeros = Dense(weight=np.zeros((4, HIDDEN), np.float32), bias=None, activation="identity")
    head = Head(poolings=("mean",), steps=(zeros,))

    graph = encoder_graph(config=config, weights=weights, head=head, linear=float_linear)
    embedding, norm = run_together(session_of(lambda: graph), sequences())

    assert not embedding.any()
    assert not norm.any()


@of_every_family()
def test_fp32_needs_standard_operators_only(family: TinyFamily) -> None:
    config, weights = parts(family)

    for pooling in POOLINGS:
        head = Head(poolings=(pooling,))
        model = encoder_graph(config=config, weights=weights, head=head, linear=float_linear)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize(
    ("name", "tokens"), [("bert", 160), ("roberta", 158), ("mpnet", 158), ("modernbert", 160)]
)
def test_positions_limit_the_length(name: str, tokens: int) -> None:
    config = next(ModelConfigJson(item.config) for item in TINY_FAMILIES if item.name == name)

    assert family_for(config).size(config).max_tokens == tokens


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("modernbert", {"num_attention_heads": 32}, "cannot be rotated in pairs"),
        ("modernbert", {"rope_scaling": {"factor": 2}}, "rope_scaling"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("modernbert", {"norm_bias": "yes"}, "norm_bias"),
        ("roberta", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("mpnet", {"relative_attention_num_buckets": 16}, r"shape \[32, 4\], expected \[16, 4\]"),
        ("distilbert", {"dim": 30}, "dim 30 does not divide into 4 heads"),
    ],
)
def test_an_unsupported_setting_is_named(
    name: str, change: dict[str, object], problem: str
) -> None:
    family = next(family for family in TINY_FAMILIES if family.name == name)
    config = ModelConfigJson({**family.config, **change})  # type: ignore[dict-item]

    head = Head(poolings=("mean",))
    weights = Weights(family.tensors())

    with pytest.raises(ModelError, match=problem):
        encoder_graph(config=config, weights=weights, head=head, linear=float_linear)

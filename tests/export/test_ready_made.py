"""Ready-made ONNX encoders: whatever their inputs and outputs, the same vectors come out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vecserve_server.domain import TokenIds, Vectors
from vecserve_server.encoding.model_config import read_model_config
from vecserve_server.errors import ModelError
from vecserve_server.export.importer import import_model
from vecserve_server.export.sample_run import open_session, run_together

from .multilingual_tokenizer import multilingual_tokenizer
from .tiny_families import POOLINGS, VOCABULARY, pooled, sequences

WIDTH = 8
TABLE = np.random.RandomState(3).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
PLACES = np.random.RandomState(4).standard_normal((200, WIDTH)).astype(np.float32)


def token_states(ids: TokenIds, *, positions: bool) -> NDArray[np.float32]:
    return TABLE[ids] + (PLACES[: len(ids)] if positions else 0)


def graph_file(
    file: Path,
    *,
    opset: int = 17,
    kind: int = TensorProto.INT64,
    more_inputs: Sequence[str] = (),
    output: str = "last_hidden_state",
    mean: bool = False,
    external: bool = False,
) -> None:
    """Write an encoder that looks token ids up, and positions where it takes them."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["words"])]
    last = "words"
    for name in more_inputs:
        table = "places" if name == "position_ids" else "zeros"
        nodes.append(helper.make_node("Gather", [table, name], [f"{name}_states"]))
        nodes.append(helper.make_node("Add", [last, f"{name}_states"], [f"with_{name}"]))
        last = f"with_{name}"
    if mean:
        nodes.append(helper.make_node("ReduceMean", [last], ["pooled"], axes=[1], keepdims=0))
        last = "pooled"
    nodes.append(helper.make_node("Identity", [last], [output]))
    nodes.append(helper.make_node("Identity", ["attention_mask"], ["unused"]))
    shape: list[str | int] = ["batch", WIDTH] if mean else ["batch", "sequence", WIDTH]
    graph = helper.make_graph(
        nodes,
        "ready-made",
        [
            helper.make_tensor_value_info(name, kind, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask", *more_inputs)
        ],
        [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("unused", kind, ["batch", "sequence"]),
        ],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(PLACES, "places"),
            numpy_helper.from_array(np.zeros((2, WIDTH), np.float32), "zeros"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file, save_as_external_data=external, location="model.onnx_data")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with everything but the ONNX file."""
    folder = tmp_path / "source"
    folder.mkdir()
    config = {"max_position_embeddings": 200}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    multilingual_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def imported(source: Path, repository: Path) -> Vectors:
    import_model(source=source, repository=repository, name="tiny")
    session = open_session(repository / "tiny" / "1" / "model.onnx")
    assert [value.shape for value in session.get_inputs()] == [["N", "T"]] * len(
        session.get_inputs()
    )
    embedding, norm = run_together(session, sequences())
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-6)
    vectors: Vectors = embedding * norm[:, None]
    return vectors


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("opset", [11, 14, 18, 21])
@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_old_and_new_files_are_taken(
    source: Path, repository: Path, place: str, opset: int, kind: int
) -> None:
    graph_file(source / place, opset=opset, kind=kind)

    found = imported(source, repository)

    exact = [pooled(token_states(ids, positions=False), "mean") for ids in sequences()]
    np.testing.assert_allclose(found, exact, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_sees_only_its_text(source: Path, repository: Path, pooling: str) -> None:
    graph_file(source / "model.onnx", more_inputs=["token_type_ids", "position_ids"])
    modules = [
        {"idx": i, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate([("Transformer", ""), ("Pooling", "1_Pooling")])
    ]
    (source / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (source / "1_Pooling").mkdir()
    settings = json.dumps({"pooling_mode": pooling})
    (source / "1_Pooling" / "config.json").write_text(settings, encoding="utf-8")

    found = imported(source, repository)

    exact = [pooled(token_states(ids, positions=True), pooling) for ids in sequences()]
    np.testing.assert_allclose(found, exact, atol=2e-5)


@pytest.mark.parametrize("output", ["sentence_embedding", "embedding", "norm"])
def test_a_pooled_output_is_only_normalised(source: Path, repository: Path, output: str) -> None:
    graph_file(source / "model.onnx", output=output, mean=True)
    model = onnx.load(source / "model.onnx")
    del model.graph.output[1]
    onnx.save(model, source / "model.onnx")

    import_model(source=source, repository=repository, name="tiny")

    session = open_session(repository / "tiny" / "1" / "model.onnx")
    for ids in sequences():
        embedding, norm = run_together(session, [ids])
        exact = TABLE[ids].mean(axis=0)
        np.testing.assert_allclose(embedding[0] * norm[0], exact, atol=1e-5)


def test_tensors_in_a_second_file_are_read(source: Path, repository: Path) -> None:
    graph_file(source / "model.onnx", external=True)
    assert (source / "model.onnx_data").is_file()

    card = import_model(source=source, repository=repository, name="tiny")

    assert {"model.onnx", "model.onnx_data"} <= card.source_sha256.keys()
    found = run_together(open_session(repository / "tiny" / "1" / "model.onnx"), sequences())
    assert found[0].shape == (len(sequences()), WIDTH)


def test_the_configuration_says_padded(source: Path, repository: Path) -> None:
    graph_file(source / "model.onnx")

    card = import_model(source=source, repository=repository, name="tiny", max_length=64)

    assert (card.layout, card.dim, card.max_tokens) == ("padded", WIDTH, 64)
    assert card.architecture == "ready-made ONNX"
    assert card.assumed is not None
    proto = read_model_config(repository / "tiny" / "config.pbtxt")
    values = {key: value.string_value for key, value in proto.parameters.items()}
    assert (values["layout"], values["normalise"], values["precision"]) == (
        "padded",
        "false",
        "fp32",
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"more_inputs": ["pixel_values"]}, "inputs must be .* found .*pixel_values"),
        ({"kind": TensorProto.FLOAT}, "inputs must be integers"),
        ({"output": "logits"}, r"none of the outputs \['logits', 'unused'\]"),
    ],
)
def test_another_kind_of_model_is_refused(
    source: Path, repository: Path, change: dict[str, object], problem: str
) -> None:
    graph_file(source / "model.onnx", **change)  # type: ignore[arg-type]

    with pytest.raises(ModelError, match=problem):
        import_model(source=source, repository=repository, name="tiny")
    assert not repository.exists() or not list(repository.iterdir())


def test_a_damaged_file_is_named(source: Path, repository: Path) -> None:
    (source / "model.onnx").write_bytes(b"\x00garbage")

    with pytest.raises(ModelError, match=r"model\.onnx: not a readable ONNX model"):
        import_model(source=source, repository=repository, name="tiny")


def test_int8_cannot_be_asked_of_it(source: Path, repository: Path) -> None:
    graph_file(source / "model.onnx")

    with pytest.raises(ModelError, match="ready-made model cannot be built in int8"):
        import_model(source=source, repository=repository, name="tiny", precisions=("int8",))
    assert list(repository.iterdir()) == []

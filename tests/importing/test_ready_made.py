"""Ready-made ONNX encoders: whatever their inputs and outputs, the same vectors come out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.importing.multilingual_tokenizer import multilingual_tokenizer
from tests.importing.served_vectors import served
from tests.importing.tiny_families import POOLINGS, VOCABULARY, pooled, sequences
from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.errors import ModelError
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.sample_run import open_session, run_together
from vecserve_server.model_files.config_file import read_config_file

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
    location: str = "model.onnx_data",
    floats: int = TensorProto.FLOAT,
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
    nodes.append(helper.make_node("Cast", [last], [output], to=floats))
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
            helper.make_tensor_value_info(output, floats, shape),
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
    onnx.save(model, file, save_as_external_data=external, location=location, size_threshold=0)


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
    proto = read_config_file(repository / "tiny" / "config.pbtxt")
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


def exact_means() -> list[NDArray[np.float64]]:
    return [pooled(token_states(ids, positions=False), "mean") for ids in sequences()]


@pytest.mark.parametrize("location", ["model.onnx.data", "weights/part 1", "model.onnx_data"])
@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
def test_a_folder_of_links_is_read_wherever_its_tensors_lie(
    source: Path, repository: Path, tmp_path: Path, place: str, location: str
) -> None:
    """As a download cache has it: every file a link to one that is called by its hash."""
    published = tmp_path / "published"
    (published / place).parent.joinpath(location).parent.mkdir(parents=True)
    graph_file(published / place, external=True, location=location)
    (tmp_path / "blobs").mkdir()
    for number, file in enumerate(path for path in published.rglob("*") if path.is_file()):
        blob = file.rename(tmp_path / "blobs" / f"{number:040}")
        link = source / file.relative_to(published)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))

    found = imported(source, repository)

    np.testing.assert_allclose(found, exact_means(), atol=1e-5)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "", "a\0b"])
def test_tensors_that_lie_elsewhere_are_refused(
    source: Path, repository: Path, location: str
) -> None:
    (source.parent / "secret").write_bytes(b"0" * 100_000)
    graph_file(source / "model.onnx", external=True)
    model = onnx.load(source / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    (source / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ModelError, match=r"model\.onnx: its tensors lie at .* not beside it"):
        import_model(source=source, repository=repository, name="tiny")


@pytest.mark.parametrize(
    ("size", "problem"),
    [(None, "model.onnx_data is missing from"), (9, "model.onnx_data: ends within tensor")],
)
def test_tensors_that_are_not_there_are_named(
    source: Path, repository: Path, size: int | None, problem: str
) -> None:
    graph_file(source / "model.onnx", external=True)
    data = source / "model.onnx_data"
    content = data.read_bytes()
    data.unlink()
    if size is not None:
        data.write_bytes(content[:size])

    with pytest.raises(ModelError, match=problem):
        import_model(source=source, repository=repository, name="tiny")


def test_another_variant_beside_it_does_not_count(source: Path, repository: Path) -> None:
    graph_file(source / "onnx" / "model.onnx")
    for name in ("model_fp16.onnx_data", "model.onnx.bak", "model_O4.onnx"):
        with (source / "onnx" / name).open("wb") as sparse:
            sparse.truncate(40 << 30)

    card = import_model(
        source=source, repository=repository, name="tiny", memory_limit_bytes=1 << 30
    )

    assert not [name for name in card.source_sha256 if "model" in name and name[5:] != "model.onnx"]


@pytest.mark.parametrize(
    ("config", "options", "tokens"),
    [
        ({"n_positions": 90}, {}, 90),
        ({"max_sequence_length": 80}, {}, 80),
        ({}, {"max_length": 64}, 64),
        ({"max_position_embeddings": -1}, {"max_length": 64}, 64),
    ],
)
def test_the_length_comes_from_any_of_its_names_or_the_user(
    source: Path,
    repository: Path,
    config: dict[str, int],
    options: dict[str, int],
    tokens: int,
) -> None:
    graph_file(source / "model.onnx")
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")

    card = import_model(source=source, repository=repository, name="tiny", **options)  # type: ignore[arg-type]

    assert card.max_tokens == tokens


def test_a_length_that_nobody_states_is_asked_for(source: Path, repository: Path) -> None:
    graph_file(source / "model.onnx")
    (source / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(ModelError, match=r"max_position_embeddings is missing: .*--max-length"):
        import_model(source=source, repository=repository, name="tiny")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "nomic_bert"},
        {"architectures": ["T5EncoderModel"]},
        {"model_type": "bert", "auto_map": {"AutoModel": "theirs.Model"}},
        {"model_type": "bert", "position_embedding_type": "alibi"},
    ],
)
def test_weights_that_cannot_be_used_give_way_to_the_onnx_file(
    source: Path, repository: Path, config: dict[str, object]
) -> None:
    graph_file(source / "onnx" / "model.onnx")
    (source / "model.safetensors").write_bytes(b"of an architecture that nobody knows")
    stated = json.dumps({"max_position_embeddings": 200, **config})
    (source / "config.json").write_text(stated, encoding="utf-8")

    np.testing.assert_allclose(imported(source, repository), exact_means(), atol=1e-5)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    "floats", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE], ids=str
)
def test_other_floats_come_out_as_float32(
    source: Path, repository: Path, floats: int, mean: bool
) -> None:
    graph_file(source / "model.onnx", floats=floats, mean=mean)
    import_model(source=source, repository=repository, name="tiny")

    session = open_session(repository / "tiny" / "1" / "model.onnx")
    found = [run_together(session, [ids]) for ids in sequences()]
    vectors = [embedding[0] * norm[0] for embedding, norm in found]
    np.testing.assert_allclose(vectors, exact_means(), atol=2e-2)


def test_prompts_can_be_left_out_of_its_pooling(source: Path, repository: Path) -> None:
    graph_file(source / "model.onnx", kind=TensorProto.INT32)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in kinds
    ]
    (source / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (source / "1_Pooling").mkdir()
    settings = json.dumps({"include_prompt": False})
    (source / "1_Pooling" / "config.json").write_text(settings, encoding="utf-8")
    import_model(source=source, repository=repository, name="tiny")

    found = served(repository, ["hello", "Where is my order?"], prompt="hello ")

    tokenizer = multilingual_tokenizer()
    count = len(tokenizer.encode("hello ").ids) - 1
    for text, vector in zip(("hello", "Where is my order?"), found, strict=True):
        rest = np.array(tokenizer.encode(f"hello {text}").ids)[count:]
        np.testing.assert_allclose(vector, TABLE[rest].mean(axis=0), atol=1e-5)

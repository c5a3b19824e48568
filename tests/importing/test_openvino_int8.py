"""The OpenVINO rewrite keeps every family's values, and its int8 stays close and batch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.importing.tiny_bert import CheckpointFiles
from tests.importing.tiny_families import POOLINGS, TINY_FAMILIES, TinyFamily, sequences
from tests.text_models import text_models
from vecserve_server.domain.vectors import TokenIds, Vectors
from vecserve_server.encoding.packing import pack, plan_rows
from vecserve_server.engines.openvino.runtime import openvino_is_installed, openvino_module
from vecserve_server.errors import ModelError
from vecserve_server.importing.families.encoder_graph import encoder_graph
from vecserve_server.importing.families.family import ModelConfigJson, Weights
from vecserve_server.importing.graph.head import Head
from vecserve_server.importing.graph.linear import float_linear
from vecserve_server.importing.importer import import_model
from vecserve_server.importing.quantise.calibration import (
    Calibration,
    calibrate,
    shipped_calibration,
)
from vecserve_server.importing.quantise.openvino_build import write_int8
from vecserve_server.importing.quantise.openvino_graph import linear_blocks, rewrite
from vecserve_server.importing.sources.model_file import save_model
from vecserve_server.model_files.card import ModelCard

pytestmark = pytest.mark.skipif(
    not openvino_is_installed(), reason="OpenVINO is not installed (it is for x86-64 only)"
)


def graph_file(family: TinyFamily, folder: Path, pooling: str = "mean") -> Path:
    model = encoder_graph(
        config=ModelConfigJson(family.config),
        weights=Weights(family.tensors()),
        head=Head(poolings=(pooling,)),
        linear=float_linear,
    )
    save_model(model, folder / "model.onnx")
    return folder / "model.onnx"


def calibration_of(family: TinyFamily) -> Calibration:
    return calibrate(
        config=ModelConfigJson(family.config),
        weights=Weights(family.tensors()),
        sequences=sequences(),
    )


def read(file: Path) -> Any:
    return openvino_module().Core().read_model(file)


def compiled(model: Any) -> Any:
    """Compile it for any number of runs."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino_module().Core().compile_model(model, "CPU", settings).create_infer_request()


def embed(request: Any, texts: Sequence[TokenIds], row_tokens: int = 128) -> Vectors:
    """Return embedding × norm in the order of the texts."""
    rows = plan_rows([len(text) for text in texts], row_tokens)
    request.infer(pack(texts, rows))
    vectors = request.get_tensor("embedding").data * request.get_tensor("norm").data[:, None]
    ordered: Vectors = np.empty_like(vectors)
    ordered[[index for row in rows for index in row]] = vectors
    return ordered


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray((a64 * b64).sum(axis=1) / norms)


@pytest.mark.parametrize("family", TINY_FAMILIES, ids=lambda family: family.name)
def test_rewriting_keeps_the_values_of_every_family(family: TinyFamily, tmp_path: Path) -> None:
    file = graph_file(family, tmp_path)
    original, rewritten = read(file), read(file)
    rewrite(rewritten)

    np.testing.assert_allclose(
        embed(compiled(rewritten), sequences()), embed(compiled(original), sequences()), atol=1e-4
    )
    kinds = {node.get_type_name() for node in rewritten.get_ordered_ops()}
    assert "ScaledDotProductAttention" not in kinds
    assert len(linear_blocks(rewritten)) >= 4 * 2


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rewriting_keeps_the_values_of_every_pooling(pooling: str, tmp_path: Path) -> None:
    file = graph_file(TINY_FAMILIES[0], tmp_path, pooling)
    original, rewritten = read(file), read(file)
    rewrite(rewritten)

    np.testing.assert_allclose(
        embed(compiled(rewritten), sequences()), embed(compiled(original), sequences()), atol=1e-4
    )


@pytest.mark.parametrize("family", TINY_FAMILIES, ids=lambda family: family.name)
def test_int8_is_close_and_does_not_depend_on_the_batch(family: TinyFamily, tmp_path: Path) -> None:
    file = graph_file(family, tmp_path)
    write_int8(file, tmp_path, calibration_of(family))
    model = read(tmp_path / "model.int8.xml")

    request = compiled(model)
    exact, batched = embed(compiled(read(file)), sequences()), embed(request, sequences())
    alone = np.concatenate([embed(request, [text]) for text in sequences()])

    assert cosines(exact, batched).min() >= 0.98
    assert cosines(alone, batched).min() >= 0.999
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert kinds.count("FakeQuantize") >= 4 * 2


def test_int8_files_do_not_depend_on_what_was_built_before(tmp_path: Path) -> None:
    file = graph_file(TINY_FAMILIES[0], tmp_path)
    calibration = calibration_of(TINY_FAMILIES[0])
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        write_int8(file, tmp_path / name, calibration)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])

    assert contents[0] == contents[1]


def test_the_calibration_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = graph_file(TINY_FAMILIES[0], tmp_path)
    other = shipped_calibration("all-MiniLM-L6-v2")
    assert other is not None

    with pytest.raises(ModelError, match="another architecture"):
        write_int8(file, tmp_path, other)


@dataclass(frozen=True)
class Imported:
    """A tiny model in a repository, and what the import said of it."""

    root: Path
    card: ModelCard


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = tmp_path_factory.mktemp("imported")
    source = CheckpointFiles().write(folder / "source")
    card = import_model(source=source, repository=folder / "models", name="tiny")
    return Imported(folder / "models", card)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_import_serves_both_engines(imported: Imported, engine: str, precision: str) -> None:
    repository = text_models(imported.root)
    model = repository.load("tiny", engine=engine, precision=precision)
    exact = repository.load("tiny", engine="onnxruntime", precision="fp32")
    ids = [item.ids for item in model.tokenizer.encode(["hello", "a", "b c d"], max_tokens=40)]

    assert {"int8", "int8-openvino", "fp32"} == set(imported.card.parity)
    assert model.engine == engine
    found = cosines(model.encoder.run(ids).vectors, exact.encoder.run(ids).vectors)
    assert found.min() >= (0.99 if precision == "int8" else 0.999999)
    for loaded in (model, exact):
        loaded.encoder.close()


def test_auto_runs_one_engine_and_goes_on_with_it(imported: Imported) -> None:
    models = [text_models(imported.root).load("tiny") for _ in range(2)]

    assert models[0].config.engine == "auto"
    assert models[0].engine in ("onnxruntime", "openvino")
    assert models[0].ref == models[1].ref
    assert models[0].cost == models[1].cost, "the second start reads what the first measured"
    assert models[0].proto.parameters["engine"].string_value == models[0].engine
    for model in models:
        model.encoder.close()

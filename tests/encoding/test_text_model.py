"""The model repository: a damaged or absent file is named, a name cannot escape."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.encoding.conftest import Load, needs_openvino
from tests.text_models import text_models
from vecserve_server.encoding.text_model import TextModel, TextModelLoader
from vecserve_server.engines.engine import Session, SessionSettings
from vecserve_server.engines.registry import Engines, shipped_engines
from vecserve_server.errors import InvalidArgument, ModelError
from vecserve_server.model_files.repository import ModelRepository

NAME = "all-MiniLM-L6-v2"


@pytest.fixture
def copy(tmp_path: Path, model_repository: Path) -> Path:
    """A repository with the model's files as links, so that a test may replace any of them."""
    version = tmp_path / NAME / "1"
    version.mkdir(parents=True)
    shutil.copy(model_repository / NAME / "config.pbtxt", version.parent)
    for file in (model_repository / NAME / "1").iterdir():
        (version / file.name).symlink_to(file.resolve())
    return tmp_path


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_loaded_model_says_which_weights_it_runs(int8_model: TextModel) -> None:
    assert (int8_model.ref.name, int8_model.ref.version) == (NAME, "1")
    assert len(int8_model.ref.digest) == 64
    assert (int8_model.config.dim, int8_model.config.max_tokens) == (384, 256)


def test_precisions_are_different_weights(int8_model: TextModel, fp32_model: TextModel) -> None:
    assert int8_model.ref.digest != fp32_model.ref.digest


def test_models_and_versions_are_listed_in_order(copy: Path) -> None:
    for version in ("10", "2", "latest", ".import-x", "0"):
        (copy / NAME / version).mkdir()
    (copy / "no-config").mkdir()
    (copy / ".import-y").mkdir()
    repository = ModelRepository(copy)

    assert repository.names() == [NAME]
    assert repository.versions(NAME) == ["1", "2", "10"]
    assert repository.versions("unknown") == []


def test_an_absent_repository_has_no_models(tmp_path: Path) -> None:
    assert ModelRepository(tmp_path / "nowhere").names() == []


def test_a_missing_version_says_how_to_get_it(copy: Path) -> None:
    shutil.rmtree(copy / NAME / "1")

    with pytest.raises(ModelError, match="vecserve models add default"):
        text_models(copy).load(NAME)


def test_an_unknown_version_is_refused(copy: Path) -> None:
    with pytest.raises(ModelError, match=r"no version 7 \(found: 1\)"):
        text_models(copy).load(NAME, "7")


@pytest.mark.parametrize("file", ["tokenizer.json", "model.int8.onnx", "card.json"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / NAME / "1" / file).unlink()

    with pytest.raises(ModelError, match=f"{file} is missing"):
        text_models(copy).load(NAME)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.int8.onnx"])
def test_a_flipped_bit_is_found_before_the_file_is_used(copy: Path, file: str) -> None:
    path = copy / NAME / "1" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))

    with pytest.raises(ModelError, match=rf"{file}: sha256 is .* card\.json says"):
        text_models(copy).load(NAME)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 3}'])
def test_a_malformed_card_is_refused(copy: Path, content: bytes) -> None:
    replace(copy / NAME / "1" / "card.json", content)

    with pytest.raises(ModelError, match="not a model card"):
        text_models(copy).load(NAME)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('string_value: "256" } }', 'string_value: "512" } }', "max_tokens"),
        ("dims: [ 384 ]", "dims: [ 768 ]", "dim 768, the model has 384"),
        (f'name: "{NAME}"', 'name: "other"', 'name is "other"'),
    ],
)
def test_a_configuration_that_does_not_fit_the_model_is_refused(
    copy: Path, old: str, new: str, problem: str
) -> None:
    config = copy / NAME / "config.pbtxt"
    text = config.read_text("utf-8")
    assert old in text
    config.write_text(text.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(ModelError, match=problem):
        text_models(copy).load(NAME)


@given(
    name=st.sampled_from(["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a" * 129, "a\n", "é"])
    | st.text(max_size=5).map(lambda text: text + "/")
)
def test_a_name_cannot_lead_out_of_the_repository(name: str) -> None:
    root = Path("unused")

    for use in (text_models(root).load, ModelRepository(root).versions):
        with pytest.raises(InvalidArgument, match="name"):
            use(name)


def without_openvino(root: Path) -> TextModelLoader:
    onnxruntime, openvino = shipped_engines().engines
    absent = changed(openvino, is_installed=lambda: False, open=missing)
    return TextModelLoader(root, engines=Engines((onnxruntime, absent)))


def missing(model_file: Path, settings: SessionSettings) -> Session:
    raise ModelError("OpenVINO is missing: install vecserve[server]")


def test_without_openvino_the_other_engine_serves(copy: Path) -> None:
    model = without_openvino(copy).load(NAME)

    assert (model.config.engine, model.engine) == ("auto", "onnxruntime")
    assert model.encoder.run([np.array([101, 2023, 102])]).vectors.shape == (1, 384)
    model.encoder.close()


@needs_openvino
def test_an_engine_that_is_asked_for_by_name_is_not_replaced(copy: Path) -> None:
    with pytest.raises(ModelError, match="OpenVINO is missing"):
        without_openvino(copy).load(NAME, engine="openvino")


@needs_openvino
def test_a_version_without_files_for_the_engine_is_refused(copy: Path) -> None:
    card_file = copy / NAME / "1" / "card.json"
    card = json.loads(card_file.read_bytes())
    del card["files"]["model.int8.xml"]
    replace(card_file, json.dumps(card).encode())

    with pytest.raises(ModelError, match="not built in precision int8 for openvino"):
        text_models(copy).load(NAME, engine="openvino")
    model = text_models(copy).load(NAME)
    assert model.engine == "onnxruntime"
    model.encoder.close()


@needs_openvino
@pytest.mark.parametrize("file", ["model.int8.xml", "model.int8.bin"])
def test_both_files_of_a_pair_are_checked(copy: Path, file: str) -> None:
    path = copy / NAME / "1" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))

    with pytest.raises(ModelError, match=rf"{file}: sha256 is"):
        text_models(copy).load(NAME, engine="openvino")


@needs_openvino
def test_the_digest_is_that_of_what_runs(load: Load) -> None:
    digests = {load(*case).ref.digest for case in (("onnxruntime", "int8"), ("openvino", "int8"))}

    assert len(digests) == 2
    assert load("onnxruntime", "fp32").ref.digest == load("openvino", "fp32").ref.digest

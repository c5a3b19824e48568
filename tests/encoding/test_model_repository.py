"""The model repository: a damaged or absent file is named, a name cannot escape."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.encoding.model_repository import ModelRepository, TextModel
from vecserve_server.errors import InvalidArgument, ModelError

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
    assert int8_model.encoder.dim == int8_model.config.dim == 384
    assert int8_model.encoder.max_tokens == int8_model.config.max_tokens == 256


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

    with pytest.raises(ModelError, match="make models"):
        ModelRepository(copy).load(NAME)


def test_an_unknown_version_is_refused(copy: Path) -> None:
    with pytest.raises(ModelError, match=r"no version 7 \(found: 1\)"):
        ModelRepository(copy).load(NAME, "7")


@pytest.mark.parametrize("file", ["tokenizer.json", "model.int8.onnx", "card.json"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / NAME / "1" / file).unlink()

    with pytest.raises(ModelError, match=f"{file} is missing"):
        ModelRepository(copy).load(NAME)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.int8.onnx"])
def test_a_flipped_bit_is_found_before_the_file_is_used(copy: Path, file: str) -> None:
    path = copy / NAME / "1" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))

    with pytest.raises(ModelError, match=rf"{file}: sha256 is .* card\.json says"):
        ModelRepository(copy).load(NAME)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"files": 3}'])
def test_a_malformed_card_is_refused(copy: Path, content: bytes) -> None:
    replace(copy / NAME / "1" / "card.json", content)

    with pytest.raises(ModelError, match="not a model card"):
        ModelRepository(copy).load(NAME)


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
        ModelRepository(copy).load(NAME)


@given(
    name=st.sampled_from(["", ".", "..", "../x", "a/b", "/etc", "a\\b", "a" * 129, "a\n", "é"])
    | st.text(max_size=5).map(lambda text: text + "/")
)
def test_a_name_cannot_lead_out_of_the_repository(name: str) -> None:
    repository = ModelRepository(Path("unused"))

    for use in (repository.load, repository.versions):
        with pytest.raises(InvalidArgument, match="name"):
            use(name)

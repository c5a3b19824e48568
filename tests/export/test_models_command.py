"""`vecserve models add`: from the command line to a model in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vecserve_server.cli.program import run
from vecserve_server.export.verify import verify_model

from .tiny_bert import HIDDEN, CheckpointFiles


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

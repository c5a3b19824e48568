"""A card is read whatever version of the importer wrote it; what it lists is checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vecserve_server.errors import ModelError
from vecserve_server.model_files.card import read_card
from vecserve_server.model_files.version_files import VersionFiles

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LEAST = {"dim": 4, "max_tokens": 32, "files": {"model.onnx": {"sha256": DIGEST, "size_bytes": 7}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    version = tmp_path / "tiny" / "2"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(CONTENT)
    return version


def write(folder: Path, **values: object) -> None:
    (folder / "card.json").write_text(json.dumps({**LEAST, **values}))


def test_an_older_card_lacks_what_loading_does_without(folder: Path) -> None:
    write(folder)
    card = read_card(folder)
    assert (card.name, card.version, card.dim, card.include_prompt) == ("tiny", "2", 4, True)
    assert card.exporter_version == 0


def test_what_a_later_card_adds_is_left_out(folder: Path) -> None:
    parity = {"cosine_mean": 1.0, "cosine_min": 1.0, "batch_cosine_min": 1.0, "recall": 0.9}
    write(folder, modality="image", parity={"fp32": parity})
    assert read_card(folder).parity["fp32"].cosine_mean == 1.0


@pytest.mark.parametrize("missing", ["dim", "max_tokens", "files"])
def test_what_loading_goes_by_must_be_there(folder: Path, missing: str) -> None:
    write(folder)
    values = {key: value for key, value in LEAST.items() if key != missing}
    (folder / "card.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=f"not a model card .*{missing}.*import it again"):
        read_card(folder)


def test_a_file_is_used_once_it_is_known_to_be_the_cards(folder: Path) -> None:
    write(folder)
    files = VersionFiles.open(folder)
    found = files.model_file(["model.onnx"])
    assert (found.path, found.digest, found.size_bytes) == (folder / "model.onnx", DIGEST, 7)

    (folder / "model.onnx").write_bytes(b"WEIGHTS")
    with pytest.raises(ModelError, match=r"model\.onnx: sha256 is .* card\.json says"):
        files.model_file(["model.onnx"])


def test_tensors_beside_the_graph_are_part_of_what_runs(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(CONTENT)
    entry = {"sha256": DIGEST, "size_bytes": 7}
    write(folder, files={"model.onnx": entry, "model.onnx.data": entry})
    files = VersionFiles.open(folder)

    found = files.model_file(["model.onnx"])
    assert found.size_bytes == 14
    assert found.digest == hashlib.sha256((DIGEST * 2).encode()).hexdigest()
    assert not files.holds(["model.onnx", "model.int8.onnx"])

"""What an engine compiled is used again only if it is what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vecserve_server.engines.compiled_models import CompiledModels

DIGEST = "d" * 64


def compiled(tmp_path: Path) -> tuple[CompiledModels, Path]:
    """Return a sealed folder with one blob."""
    models = CompiledModels(tmp_path / "compiled")
    folder = models.open(DIGEST)
    assert folder is not None
    (folder / "1.blob").write_bytes(bytes(1000))
    models.seal(DIGEST)
    return models, folder


def flip(folder: Path) -> None:
    content = bytearray((folder / "1.blob").read_bytes())
    content[500] ^= 1
    (folder / "1.blob").write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / "1.blob").write_bytes(bytes(10))


def add(folder: Path) -> None:
    (folder / "2.blob").write_bytes(b"x")


def break_the_seal(folder: Path) -> None:
    (folder / "sha256").write_bytes(b"\xff\xfe")


def remove_the_seal(folder: Path) -> None:
    (folder / "sha256").unlink()


def test_a_whole_model_is_found_again(tmp_path: Path) -> None:
    _, folder = compiled(tmp_path)
    later = CompiledModels(tmp_path / "compiled")

    assert later.open(DIGEST) == folder
    assert (folder / "1.blob").is_file()
    assert later.open("e" * 64) != folder


@pytest.mark.parametrize("damage", [flip, truncate, add, break_the_seal, remove_the_seal])
def test_a_damaged_one_is_thrown_away(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    models, folder = compiled(tmp_path)
    damage(folder)

    assert models.open(DIGEST) == folder
    assert list(folder.iterdir()) == []


def test_a_seal_is_not_renewed(tmp_path: Path) -> None:
    models, folder = compiled(tmp_path)
    flip(folder)
    models.seal(DIGEST)

    models.open(DIGEST)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("as_file", [True, False])
def test_without_a_folder_nothing_is_kept(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "file").touch()
    models = CompiledModels(tmp_path / "file" if as_file else None)

    assert models.open(DIGEST) is None
    models.seal(DIGEST)

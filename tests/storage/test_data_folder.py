"""The data folder: lock, format, collections."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import AlreadyExists, ConfigError, InvalidArgument, NotFound
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.manifest import Manifest, read_manifest

_OPEN_AND_PRINT_ERROR = """
import pathlib, sys
from vecserve_server.errors import ConfigError
from vecserve_server.storage.folders.data_folder import DataFolder
try:
    DataFolder.open(pathlib.Path(sys.argv[1])).close()
except ConfigError as error:
    print(error)
"""


def test_collections_survive_reopening(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path / "new" / "data") as data:
        data.create_collection(_spec("b"))
        data.create_collection(_spec("a"))
    with DataFolder.open(tmp_path / "new" / "data") as data:
        assert data.collection_names() == ["a", "b"]
        assert read_manifest(data.collection_folder("a")) == Manifest(spec=_spec("a"))


def test_a_collection_is_created_once_and_removed_whole(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path) as data:
        folder = data.create_collection(_spec("a"))
        (folder / "rows.sqlite").write_bytes(b"rows")
        with pytest.raises(AlreadyExists):
            data.create_collection(_spec("a"))
        assert (folder / "rows.sqlite").read_bytes() == b"rows"
        data.remove_collection("a")
        assert data.collection_names() == []
        assert list(folder.parent.iterdir()) == []
        with pytest.raises(NotFound):
            data.remove_collection("a")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "a\n", "ä", "a" * 129])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with DataFolder.open(tmp_path) as data, pytest.raises(InvalidArgument, match="collection"):
        data.collection_folder(name)


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path):
        assert f"is in use by process {os.getpid()} on" in _error_of_other_process(tmp_path)
    assert _error_of_other_process(tmp_path) == ""


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    DataFolder.open(tmp_path).close()
    leftover = tmp_path / "collections" / ".docs.x1.removed"
    leftover.mkdir()
    (leftover / "rows.sqlite").write_bytes(b"rows")
    with DataFolder.open(tmp_path) as data:
        assert data.collection_names() == []
        assert not leftover.exists()


def test_a_folder_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    DataFolder.open(tmp_path).close()
    (tmp_path / "FORMAT").write_bytes(b"vecserve data folder, format 2\n")
    with pytest.raises(ConfigError, match="format 2"):
        DataFolder.open(tmp_path)


def test_somebody_elses_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        DataFolder.open(tmp_path)
    assert not (tmp_path / "FORMAT").exists()


def test_a_path_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        DataFolder.open(tmp_path / "file")


def _error_of_other_process(folder: Path) -> str:
    command = [sys.executable, "-c", _OPEN_AND_PRINT_ERROR, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout


def _spec(name: str) -> CollectionSpec:
    model = ModelRef(name="encoder", version="1", digest="0f" * 32)
    return CollectionSpec(name=name, model=model, dim=4, created_unix_ms=1)

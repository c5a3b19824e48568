"""Files and folders that appear and disappear in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from vecserve_server.atomic_files import (
    new_folder_atomically,
    remove_folder_atomically,
    sweep_leftovers,
    write_atomically,
)
from vecserve_server.errors import AlreadyExists, StorageError


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"a longer first content")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", _fail)
    with pytest.raises(StorageError, match="file: cannot be written: the device is gone"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with new_folder_atomically(tmp_path / "new") as unfinished:
        (unfinished / "file").write_bytes(b"content")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_bytes() == b"content"


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(AlreadyExists), new_folder_atomically(tmp_path / "old"):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_a_removed_folder_is_gone_with_all_it_held(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_bytes(b"content")
    remove_folder_atomically(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_removing_a_missing_folder_fails_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be removed"):
        remove_folder_atomically(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_takes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".file.abc.unfinished").write_bytes(b"half")
    (tmp_path / ".folder.abc.removed" / "inner").mkdir(parents=True)
    kept = {"file", ".hidden", "file.removed"}
    for name in kept:
        (tmp_path / name).write_bytes(b"content")
    sweep_leftovers(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == kept


def _fail(descriptor: int) -> None:
    raise OSError(5, "the device is gone")

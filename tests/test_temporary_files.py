"""Temporary files: what libraries write for a while lies where the operator wants it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.temporary_files import temporary_files_in


def open_files() -> set[Path]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.add(link.readlink())
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found


def temporary_files_of_a_rewrite(folder: Path) -> set[Path]:
    """Rewrite a file of SQLite that is larger than its cache; return what it opened meanwhile."""
    seen: set[Path] = set()
    with closing(sqlite3.connect(folder / "rows.sqlite")) as connection:
        connection.execute("CREATE TABLE rows (text)")
        rows = ((os.urandom(4000),) for _ in range(2000))
        connection.executemany("INSERT INTO rows VALUES (?)", rows)
        connection.commit()
        before = open_files()
        connection.set_progress_handler(lambda: seen.update(open_files() - before), 1000)
        connection.execute("VACUUM")
    return {path for path in seen if path.parent != folder}


def test_what_sqlite_writes_while_it_rewrites_a_file_lies_in_the_data_folder(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows").mkdir()
    with (
        DataFolder.open(tmp_path / "data's") as data,
        temporary_files_in(data.temporary_folder),
    ):
        seen = temporary_files_of_a_rewrite(tmp_path / "rows")
        assert {path.parent for path in seen} == {data.temporary_folder}


def test_what_python_and_children_write_lies_there_too_and_only_then(tmp_path: Path) -> None:
    before = dict(os.environ), tempfile.gettempdir()
    with temporary_files_in(tmp_path):
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)
        assert Path(tempfile.mkdtemp()).parent == tmp_path
    assert (dict(os.environ), tempfile.gettempdir()) == before


def test_what_a_killed_server_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    with DataFolder.open(tmp_path) as data:
        (data.temporary_folder / "left").mkdir()
    with DataFolder.open(tmp_path) as data:
        assert not list(data.temporary_folder.iterdir())
        assert data.temporary_folder.stat().st_mode & 0o777 == 0o700

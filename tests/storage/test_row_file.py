"""Files of rows: open while used, closed for others, written only where they were opened."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecserve_server.domain.collections import FieldSpec, FieldType
from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import Overloaded, StoreGone
from vecserve_server.storage.files import sqlite_file
from vecserve_server.storage.files.open_stores import OpenStores
from vecserve_server.storage.rows import row_file
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog

FIELDS = [FieldSpec(name="title", type=FieldType.TEXT)]
FILE = "rows.sqlite"
DESCRIPTORS = Path("/proc/self/fd")


def upsert(row_id: str) -> Upsert:
    vector = np.ones(2, np.float32) / np.sqrt(2, dtype=np.float32)
    return Upsert(NewRow(id=row_id, vector=vector, payload_json=f'{{"title": "word {row_id}"}}'))


def opened(folder: Path, stores: OpenStores | None = None) -> RowLog:
    folder.mkdir(parents=True, exist_ok=True)
    return RowLog.open(folder / FILE, dim=2, model_digest="0f", fields=FIELDS, stores=stores)


def ids(log: RowLog) -> list[str]:
    return [row.id for row in log.scan(after_seq=0, limit=99)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RowLog]:
    made = opened(tmp_path / "c" / "1")
    made.commit([upsert("acknowledged")])
    yield made
    made.close()


def test_many_files_take_few_descriptors_and_are_all_read_and_written(tmp_path: Path) -> None:
    stores = OpenStores(limit=2)
    before = len(list(DESCRIPTORS.iterdir()))
    logs = [opened(tmp_path / str(number), stores) for number in range(20)]
    for round_ in "ab":
        for number, log in enumerate(logs):
            log.commit([upsert(f"{round_}{number}")])
            assert log.queries.lexical(f"{round_}{number}", 9, row_count=9).seqs.size == 1
            assert len(stores) <= 2
    assert len(list(DESCRIPTORS.iterdir())) - before <= 2 * (3 + 2 * 4)
    for number, log in enumerate(logs):
        assert ids(log) == [f"a{number}", f"b{number}"]
        log.close()
    assert len(stores) == 0
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_a_file_in_use_is_not_closed_for_another(tmp_path: Path) -> None:
    stores = OpenStores(limit=1)
    one, other = opened(tmp_path / "one", stores), opened(tmp_path / "other", stores)
    one.commit([upsert("a")])
    with one._file.snapshot() as connection:
        other.commit([upsert("b")])
        assert len(stores) == 2
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (1,)
    other.commit([upsert("c")])
    assert ids(one) == ["a"]
    for log in (one, other):
        log.close()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def rename_folder(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("moved"))


def replace_folder(folder: Path) -> None:
    shutil.copytree(folder.parent, folder.parent.with_name("backup"))
    shutil.rmtree(folder.parent)
    folder.parent.with_name("backup").rename(folder.parent)


def remove_file(folder: Path) -> None:
    (folder / FILE).unlink()


def replace_file(folder: Path) -> None:
    shutil.copyfile(folder / FILE, folder / "copy")
    (folder / "copy").replace(folder / FILE)


def remove_wal(folder: Path) -> None:
    (folder / f"{FILE}-wal").unlink()


def replace_wal(folder: Path) -> None:
    shutil.copyfile(folder / f"{FILE}-wal", folder / "copy")
    (folder / "copy").replace(folder / f"{FILE}-wal")


LOSSES = [
    remove_folder,
    rename_folder,
    replace_folder,
    remove_file,
    replace_file,
    remove_wal,
    replace_wal,
]


@pytest.mark.parametrize("lose", LOSSES)
def test_nothing_is_written_to_files_that_are_not_where_they_were_opened(
    log: RowLog, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    lose(tmp_path / "c" / "1")
    for _ in range(2):
        with pytest.raises(StoreGone, match=r"is gone|is another file"):
            log.commit([upsert("lost")])
        with pytest.raises(StoreGone):
            log.check_in_place()
    # What is open can still be read.
    assert log.count() == 1


@pytest.mark.parametrize("lose", LOSSES[:5])
def test_a_closed_file_that_was_lost_is_not_opened_again(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    stores = OpenStores(limit=1)
    folder = tmp_path / "c" / "1"
    log, other = opened(folder, stores), opened(tmp_path / "other", stores)
    log.commit([upsert("acknowledged")])
    other.commit([upsert("other")])
    assert not (folder / f"{FILE}-wal").exists()
    lose(folder)
    for use in (lambda: log.commit([upsert("lost")]), lambda: ids(log), log.check_in_place):
        with pytest.raises(StoreGone):
            use()
    assert ids(other) == ["other"]
    log.close()
    other.close()


def test_files_that_are_back_are_written_again(log: RowLog, tmp_path: Path) -> None:
    rename_folder(tmp_path / "c" / "1")
    with pytest.raises(StoreGone):
        log.commit([upsert("refused")])
    (tmp_path / "moved").rename(tmp_path / "c")
    log.check_in_place()
    log.commit([upsert("b")])
    assert ids(log) == ["acknowledged", "b"]


@pytest.mark.parametrize("notice", [RowLog.check_in_place, lambda log: log.commit([upsert("x")])])
def test_what_a_removed_log_held_is_brought_into_the_file(
    log: RowLog, tmp_path: Path, notice: Callable[[RowLog], Any]
) -> None:
    folder = tmp_path / "c" / "1"
    remove_wal(folder)
    with pytest.raises(StoreGone):
        notice(log)
    # As after a kill: nothing that is open helps any more.
    (tmp_path / "left").mkdir()
    shutil.copyfile(folder / FILE, tmp_path / "left" / FILE)
    left = opened(tmp_path / "left")
    assert ids(left) == ["acknowledged"]
    left.close()


def test_a_write_whose_file_is_lost_before_it_is_acknowledged_is_refused_for_good(
    log: RowLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = sqlite_file.write_transaction

    @contextmanager
    def lost_afterwards(connection: sqlite3.Connection) -> Iterator[None]:
        with transaction(connection):
            yield
        rename_folder(tmp_path / "c" / "1")

    monkeypatch.setattr(row_file, "write_transaction", lost_afterwards)
    with pytest.raises(StoreGone):
        log.commit([upsert("neither acknowledged nor published")])
    monkeypatch.undo()
    (tmp_path / "moved").rename(tmp_path / "c")
    # The index does not have that row.
    with pytest.raises(StoreGone):
        log.commit([upsert("next")])


def test_an_error_names_the_limit_of_open_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(path.name) for path in DESCRIPTORS.iterdir()) + 1
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(limit)]
    limit = max(spare) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with pytest.raises(Overloaded, match=rf"as it may, {limit}; raise .*ulimit -n"):
            RowLog.open(tmp_path / "x.sqlite", dim=2, model_digest="0f")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)

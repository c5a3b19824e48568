"""The row log: transactions, reads, damage, full disks."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.first_schema import write_first_schema
from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import ConfigError, CorruptData, InvalidArgument, StorageError
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.row_checks import Damaged
from vecserve_server.storage.rows.row_log import RowLog

_DIM = 4
_ANY_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows #1?.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[RowLog]:
    log = _open(path)
    yield log
    log.close()


def test_rows_come_back_as_written_by_id_by_seq_and_by_scan(log: RowLog) -> None:
    log.commit([_upsert("a", 1, '{"x": "ä\\u0000"}'), _upsert("b", 2)])
    row = log.get(["a", "missing"], with_vectors=True)["a"]
    assert (row.seq, row.id, row.payload_json) == (1, "a", '{"x": "ä\\u0000"}')
    assert row.vector is not None
    assert row.vector.dtype == np.float16
    assert row.vector.tolist() == [1, 0, 0, 0]
    assert [row.id for row in log.by_seq([2, 3]).values()] == ["b"]
    assert [(row.id, row.vector) for row in log.scan(after_seq=1, limit=9)] == [("b", None)]


def test_a_commit_tells_what_each_operation_did_and_what_changed_overall(log: RowLog) -> None:
    log.commit([_upsert("a"), _upsert("b")])
    committed = log.commit(
        [
            _upsert("a", 1),  # undone by the next upsert of the same id
            _upsert("a", 2),
            Delete("b"),
            Delete("b"),
            _upsert("c", 3),
            Delete("c"),
            Delete("missing"),
        ]
    )
    assert committed.seqs == (3, 4, 2, None, 5, 5, None)
    assert committed.added_seqs.tolist() == [4]
    assert committed.added_vectors.tolist() == [[0, 1, 0, 0]]
    assert committed.removed_seqs.tolist() == [1, 2]
    assert [(row.seq, row.id) for row in log.scan(after_seq=0, limit=9)] == [(4, "a")]
    assert (log.count(), log.last_seq()) == (1, 5)


def test_a_seq_is_never_given_out_twice(path: Path) -> None:
    for expected in (1, 3, 5):
        log = _open(path)
        assert log.last_seq() == expected - 1
        assert (
            log.commit([_upsert("a"), _upsert("b"), Delete("a"), Delete("b")]).seqs[0] == expected
        )
        log.close()


@given(st.dictionaries(_ANY_TEXT, _ANY_TEXT, min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_unicode_is_an_id_and_ids_differ_as_their_code_points_do(
    log: RowLog, payloads: dict[str, str]
) -> None:
    log.commit([Delete(row.id) for row in log.scan(after_seq=0, limit=1000)])
    log.commit([_upsert(id_, payload=text) for id_, text in payloads.items()])
    assert log.count() == len(payloads)
    assert {id_: row.payload_json for id_, row in log.get(list(payloads)).items()} == payloads


def test_more_ids_than_one_statement_takes(log: RowLog) -> None:
    ids = [f"id-{number}" for number in range(1201)]
    log.commit([_upsert(id_) for id_ in ids])
    assert log.commit([_upsert(id_) for id_ in ids]).removed_seqs.tolist() == list(range(1, 1202))
    assert log.get(ids).keys() == set(ids)


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (Delete("\ud800"), "id"),
        (Upsert(NewRow(id="\ud800", vector=np.ones(4, np.float32), payload_json="{}")), "id"),
        (Upsert(NewRow(id="x", vector=np.ones(4, np.float32), payload_json="\ud800")), "payload"),
        (Upsert(NewRow(id="x", vector=np.ones(5, np.float32), payload_json="{}")), "vector"),
        (Upsert(NewRow(id="x", vector=np.full(4, 7e4, np.float32), payload_json="{}")), "vector"),
    ],
)
def test_an_impossible_row_fails_its_whole_commit(
    log: RowLog, operation: Upsert | Delete, field: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        log.commit([_upsert("a"), operation])
    assert raised.value.field == field
    assert (log.count(), log.last_seq(), log.get(["a"])) == (0, 0, {})
    assert log.commit([_upsert("a")]).seqs == (1,)


def test_commits_reach_the_disk_and_deleted_bytes_are_overwritten(log: RowLog) -> None:
    # Killing a process cannot show what a power failure would, so the settings are asserted.
    full, on = 2, 1
    pragmas = {"journal_mode": b"wal", "synchronous": full, "secure_delete": on}
    for pragma, value in pragmas.items():
        assert log._file.writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_a_reader_neither_waits_for_the_writer_nor_sees_half_a_commit(
    path: Path, log: RowLog
) -> None:
    log.commit([_upsert("a")])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM rows")
        assert list(log.get(["a"])) == ["a"]
        writer.execute("ROLLBACK")


def test_a_full_disk_fails_the_commit_and_nothing_else(log: RowLog) -> None:
    log.commit([_upsert("a")])
    (pages,) = log._file.writer.execute("PRAGMA page_count").fetchone()
    log._file.writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="the disk is full"):
        log.commit([_upsert("b"), _upsert("big", payload="x" * 100_000)])
    assert [row.id for row in log.scan(after_seq=0, limit=9)] == ["a"]
    assert (log.count(), log.last_seq()) == (1, 1)
    log._file.writer.execute("PRAGMA max_page_count = 1000000")
    assert log.commit([_upsert("b", payload="x" * 100_000)]).seqs == (2,)


def test_a_failed_write_system_call_is_rolled_back(path: Path) -> None:
    _open(path).close()
    script = Path(__file__).with_name("limited_writer.py")
    command = [sys.executable, str(script), str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, preexec_fn=_limit_file_size
    )
    assert done.stdout.splitlines() == ["StorageError", "usable: 1"]
    log = _open(path)
    assert [row.id for row in log.scan(after_seq=0, limit=9)] == ["small"]
    log.close()


def test_a_locked_file_fails_the_commit_and_nothing_else(path: Path, log: RowLog) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="is locked"):
        log.commit([_upsert("a")])
    other.close()
    assert log.commit([_upsert("a")]).seqs == (1,)


@pytest.mark.parametrize("column", ["id", "vector", "payload", "model", "checksum", "seq"])
def test_a_damaged_row_is_named_and_the_others_stay_readable(
    path: Path, log: RowLog, column: str
) -> None:
    log.commit([_upsert("a"), _upsert("b", 2, '{"k": 1}'), _upsert("c")])
    _damage(path, column)
    with pytest.raises(CorruptData, match=r"row seq (2|9), id '.*': the checksum is wrong"):
        log.scan(after_seq=1, limit=9, with_vectors=True)
    assert list(log.get(["a", "c"])) == ["a", "c"]


def test_a_seq_that_became_negative_is_damage(path: Path, log: RowLog) -> None:
    log.commit([_upsert("a")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("UPDATE rows SET seq = -9")
    other.close()
    assert [problem.text for problem in log.check().problems if problem.part is Damaged.RECORD] == [
        "row seq -9, id 'a': the checksum is wrong"
    ]


def test_a_file_that_is_no_database_is_damage(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(CorruptData, match="sqlite: is damaged"):
        _open(path)


def test_seqs_of_removed_rows_stay_until_they_are_forgotten(path: Path) -> None:
    log = _open(path)
    assert log.removed().tolist() == []
    log.commit([_upsert("a"), _upsert("b"), _upsert("c")])
    log.commit([_upsert("a"), Delete("b"), Delete("missing")])
    # A row that never lived beyond its own transaction was never anywhere else.
    log.commit([_upsert("d"), Delete("d")])
    assert log.removed().tolist() == [1, 2]
    log.forget_removed(np.array([1, 99]))
    assert log.removed().tolist() == [2]
    log.close()
    reopened = _open(path)
    assert reopened.removed().tolist() == [2]
    reopened.close()


def test_a_log_of_the_first_schema_is_migrated(path: Path) -> None:
    rows = {1: _upsert("a").row}
    write_first_schema(path, rows, dim=_DIM, model_digest="0f").close()
    migrated = _open(path)
    migrated.commit([_upsert("a")])
    assert migrated.removed().tolist() == [1]
    migrated.close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    _open(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="schema version 99"):
        _open(path)


def test_a_closed_log_says_so(path: Path) -> None:
    log = _open(path)
    log.close()
    with pytest.raises(StorageError, match="closed"):
        log.get(["a"])
    with pytest.raises(StorageError, match="closed"):
        log.commit([_upsert("a")])


def test_vectors_of_another_dimension_are_damage(path: Path, log: RowLog) -> None:
    log.commit([_upsert("a")])
    other = RowLog.open(path, dim=_DIM + 1, model_digest="0f")
    with pytest.raises(CorruptData, match="has 4 components, the collection's have 5"):
        other.scan(after_seq=0, limit=1)
    other.close()


def _open(path: Path) -> RowLog:
    return RowLog.open(path, dim=_DIM, model_digest="0f")


def _upsert(id_: str, axis: int = 1, payload: str = "{}") -> Upsert:
    vector = np.eye(_DIM, dtype=np.float32)[axis - 1]
    return Upsert(NewRow(id=id_, vector=vector, payload_json=payload))


def _damage(path: Path, column: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    new = {"seq": "9", "vector": "x'ff' || substr(vector, 2)", "checksum": "checksum + 1"}
    value = new.get(column, f"{column} || 'x'")
    if column == "vector":
        value = f"CAST({value} AS BLOB)"
    other.execute(f"UPDATE rows SET {column} = {value} WHERE seq = 2")
    other.close()


def _limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))


@pytest.mark.parametrize(
    "damage", ["DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 1"]
)
def test_a_lost_last_seq_is_damage(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.sqlite"
    log = RowLog.open(path, dim=1, model_digest="0f")
    log.commit(
        [Upsert(NewRow(id=i, vector=np.ones(1, np.float32), payload_json="{}")) for i in "abc"]
    )
    log.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(damage)
    connection.close()
    with pytest.raises(CorruptData, match=r"rows\.sqlite: is damaged: the last seq"):
        RowLog.open(path, dim=1, model_digest="0f")

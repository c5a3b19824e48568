"""Damage of SQLite's log that hides acknowledged transactions is seen; a torn end is none."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from vecserve_server.errors import CorruptData
from vecserve_server.storage.files.sqlite_file import open_writable
from vecserve_server.storage.files.write_ahead_log import check_log

PAGE, HEADER, FRAME_HEADER = 4096, 32, 24
TRANSACTIONS = 12


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A database whose transactions all stand in its log, and how long the log was after each."""
    living, killed = tmp_path / "living.sqlite", tmp_path / "killed.sqlite"
    connection = open_writable(living)
    connection.execute("CREATE TABLE numbers (n INTEGER, filling TEXT)")
    wal = living.with_name("living.sqlite-wal")
    for number in range(TRANSACTIONS):
        connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, "x" * 5000))
    shutil.copy(living, killed)
    shutil.copy(wal, killed.with_name("killed.sqlite-wal"))
    connection.close()
    return killed.with_name("killed.sqlite-wal")


def database(log: Path) -> Path:
    return log.with_name("killed.sqlite")


def numbers(log: Path) -> list[int]:
    with sqlite3.connect(database(log)) as connection:
        found = [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]
    connection.close()
    return found


def frames(log: Path) -> int:
    return (log.stat().st_size - HEADER) // (FRAME_HEADER + PAGE)


def last_commit_but_one(log: Path) -> int:
    """Where the last transaction begins, in bytes."""
    data = log.read_bytes()
    starts = range(HEADER, len(data), FRAME_HEADER + PAGE)
    commits = [start for start in starts if any(data[start + 4 : start + 8])]
    return commits[-2] + FRAME_HEADER + PAGE


def flip(log: Path, place: int) -> None:
    data = bytearray(log.read_bytes())
    data[place] ^= 1
    log.write_bytes(data)


def test_a_sound_log_passes(log: Path) -> None:
    assert frames(log) > TRANSACTIONS
    check_log(database(log))
    assert numbers(log) == list(range(TRANSACTIONS))


def test_no_log_or_an_empty_one_passes(log: Path) -> None:
    header = log.read_bytes()[:HEADER]
    for content in (header, header[:7], bytes(HEADER), b""):
        log.write_bytes(content)
        check_log(database(log))
    log.unlink()
    check_log(database(log))


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_before_the_last_transaction_is_seen(log: Path, seed: int) -> None:
    place = seed * 997 * 13 % last_commit_but_one(log)
    flip(log, place)
    with pytest.raises(CorruptData, match=r"killed\.sqlite-wal: frame \d+ is damaged"):
        check_log(database(log))


@pytest.mark.parametrize("field", range(2, 24))
def test_damage_of_the_last_commit_but_one_is_seen(log: Path, field: int) -> None:
    """Whatever part of its header it is: page, size, salt or checksum."""
    flip(log, last_commit_but_one(log) - PAGE - FRAME_HEADER + field)
    with pytest.raises(CorruptData, match=r"killed\.sqlite-wal: frame \d+ is damaged"):
        check_log(database(log))


def test_a_log_without_its_header_is_refused(log: Path) -> None:
    log.write_bytes(bytes(HEADER) + log.read_bytes()[HEADER:])
    with pytest.raises(CorruptData, match="frame 0 is damaged"):
        check_log(database(log))


def test_a_torn_last_transaction_is_not_taken_for_damage(log: Path) -> None:
    whole = log.read_bytes()
    begins = last_commit_but_one(log)
    for cut in (begins, begins + 1, begins + FRAME_HEADER + 100, len(whole) - 1):
        log.write_bytes(whole[:cut])
        check_log(database(log))
        log.write_bytes(whole[:cut] + bytes(len(whole) - cut))  # as some file systems have it
        check_log(database(log))
    assert numbers(log) == list(range(TRANSACTIONS - 1))


def test_frames_of_an_earlier_round_are_not_taken_for_transactions(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    connection = open_writable(path)
    connection.execute("CREATE TABLE numbers (n INTEGER, filling TEXT)")
    for number in range(20):
        connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, "x" * 5000))
    connection.execute("PRAGMA wal_checkpoint(RESTART)")
    connection.execute("INSERT INTO numbers VALUES (20, 'short')")
    check_log(path)
    log = path.with_name("rows.sqlite-wal")
    flip(log, HEADER + FRAME_HEADER + 7)
    check_log(path)
    connection.close()


def test_what_a_rolled_back_transaction_left_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    connection = open_writable(path)
    connection.execute("PRAGMA cache_size = 2")
    connection.execute("CREATE TABLE numbers (n INTEGER, filling TEXT)")
    log = path.with_name("rows.sqlite-wal")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO numbers VALUES (?, ?)", ((number, "x" * 9000) for number in range(50))
    )
    connection.execute("ROLLBACK")
    spilled = frames(log)
    began = log.stat().st_size
    connection.execute("INSERT INTO numbers VALUES (1, 'short')")
    assert spilled > 20
    assert log.stat().st_size == began, "the spilled frames are still there"
    check_log(path)
    connection.close()

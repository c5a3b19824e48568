"""When reads end, and which time they say ran out."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from vecserve_server.errors import DeadlineExceeded
from vecserve_server.storage.files.read_limit import ReadLimit
from vecserve_server.storage.rows.row_log import RowLog

S = 1_000_000_000
PATIENCE_S = 60.0
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_time_of_a_query_is_its_own_and_begins_with_its_reading(clock: Clock) -> None:
    limit = ReadLimit(clock_ns=clock, max_read_s=10)
    clock.now_ns = 1000 * S  # it waited for a thread
    assert not limit()
    limit.begin()
    clock.now_ns += 9 * S
    assert not limit()
    limit.begin()  # the next query of the call
    clock.now_ns += 9 * S
    assert not limit()
    clock.now_ns += 2 * S
    assert limit()
    assert "limits.max_read_s = 10" in str(limit.error())


def test_a_deadline_is_told_from_the_limit_and_from_waiting(clock: Clock) -> None:
    limit = ReadLimit(clock_ns=clock, max_read_s=10, deadline_ns=5 * S)
    clock.now_ns = 6 * S
    assert "deadline passed while it waited for a thread" in str(limit.error())
    with pytest.raises(DeadlineExceeded, match="while it waited"):
        limit.within(lambda: 1)
    limit.begin()
    assert limit()
    assert "the call's deadline passed while rows were read" in str(limit.error())


def test_giving_up_stops_a_statement_at_once(tmp_path: Path, clock: Clock) -> None:
    log = RowLog.open(tmp_path / "rows.sqlite", dim=2, model_digest="0f")
    limit = ReadLimit(clock_ns=clock)
    failures: list[BaseException] = []
    begun = threading.Event()

    def read() -> None:
        try:
            with log._file.snapshot(is_late=limit) as connection:
                # No look at the clock comes to its help.
                connection.set_progress_handler(None, 0)
                connection.execute("SELECT 1").fetchone()
                begun.set()
                connection.execute(ENDLESS).fetchone()
        except DeadlineExceeded as error:
            failures.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert begun.wait(PATIENCE_S)
    while thread.is_alive():  # it may come just before the statement
        limit.give_up()
        thread.join(0.01)
    assert len(failures) == 1
    # The connection goes on, and whoever gets it next is not interrupted.
    limit.give_up()
    assert log.count() == 0
    assert len(log.seqs()) == 0
    log.close()


def test_a_snapshot_and_a_compaction_end_once_they_are_given_up(
    tmp_path: Path, clock: Clock
) -> None:
    log = RowLog.open(tmp_path / "rows.sqlite", dim=2, model_digest="0f")
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", ((n,) for n in range(50_000)))
    connection.close()
    limit = ReadLimit(clock_ns=clock)
    limit.give_up()
    with pytest.raises(DeadlineExceeded):
        log.copy_into(tmp_path / "copy.sqlite", is_late=limit)
    with pytest.raises(DeadlineExceeded):
        log.compact(is_late=limit)
    with pytest.raises(DeadlineExceeded):
        log.check(is_late=limit)
    log.compact()
    assert not log.check().problems
    log.close()

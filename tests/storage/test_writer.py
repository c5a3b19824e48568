"""The writer thread: grouping, bounds, failures, death."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from vecserve_server.domain.rows import NewRow
from vecserve_server.errors import Draining, InvalidArgument, Overloaded, StorageError
from vecserve_server.storage.rows.operations import Committed, Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog
from vecserve_server.storage.rows.writer import RowWriter

_TIMEOUT_S = 20


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[list[RowLog]]:
    logs = [RowLog.open(tmp_path / name, dim=2, model_digest="0f") for name in ("one", "two")]
    yield logs
    for log in logs:
        log.close()


@pytest.fixture
def deaths() -> list[BaseException]:
    return []


@pytest.fixture
def writer(deaths: list[BaseException]) -> Iterator[RowWriter]:
    writer = RowWriter(queue_rows=8, group_rows=6, on_death=deaths.append)
    yield writer
    writer.drain(_TIMEOUT_S)


def test_waiting_jobs_of_one_log_share_a_transaction(writer: RowWriter, logs: list[RowLog]) -> None:
    published: list[Committed] = []
    first = writer.submit(logs[0], [_upsert("a"), _upsert("b")], published.append)
    other = writer.submit(logs[1], [_upsert("a")], _ignore)
    second = writer.submit(logs[0], [_upsert("a"), Delete("b")], published.append)
    writer.start()
    assert first.result(_TIMEOUT_S) == (1, 2)
    assert second.result(_TIMEOUT_S) == (3, 2)
    assert other.result(_TIMEOUT_S) == (1,)
    (committed,) = published
    assert committed.added_seqs.tolist() == [3]
    stats = writer.stats()
    assert (stats.commits, stats.rows, stats.queued_rows) == (2, 5, 0)
    assert stats.commit_seconds > 0


def test_a_group_holds_whole_jobs_up_to_its_limit(writer: RowWriter, logs: list[RowLog]) -> None:
    sizes: list[int] = []
    for job in range(4):
        rows = [_upsert(f"{job}-{row}") for row in range(2)]
        writer.submit(logs[0], rows, lambda committed: sizes.append(len(committed.seqs)))
    writer.start()
    assert writer.drain(_TIMEOUT_S)
    # Every job gave its own callback, and each heard of its whole transaction.
    assert sizes == [6, 6, 6, 2]


def test_a_write_is_published_before_it_is_acknowledged(
    writer: RowWriter, logs: list[RowLog]
) -> None:
    order: list[str] = []
    future = writer.submit(logs[0], [_upsert("a")], lambda committed: order.append("published"))
    future.add_done_callback(lambda done: order.append("acknowledged"))
    writer.start()
    assert writer.drain(_TIMEOUT_S)
    assert order == ["published", "acknowledged"]


def test_a_bad_job_fails_alone(writer: RowWriter, logs: list[RowLog]) -> None:
    published: list[Committed] = []
    good = writer.submit(logs[0], [_upsert("a")], published.append)
    bad = writer.submit(logs[0], [_upsert("b"), Delete("\ud800")], published.append)
    last = writer.submit(logs[0], [_upsert("c")], published.append)
    writer.start()
    assert (good.result(_TIMEOUT_S), last.result(_TIMEOUT_S)) == ((1,), (2,))
    assert isinstance(bad.exception(_TIMEOUT_S), InvalidArgument)
    assert [row.id for row in logs[0].scan(after_seq=0, limit=9)] == ["a", "c"]
    assert len(published) == 2


def test_a_failing_disk_fails_its_log_and_not_the_others(
    writer: RowWriter, logs: list[RowLog]
) -> None:
    logs[0]._file.writer.execute("PRAGMA max_page_count = 1")
    big = "x" * 100_000
    failing = [writer.submit(logs[0], [_upsert(name, big)], _ignore) for name in "ab"]
    fine = writer.submit(logs[1], [_upsert("a")], _ignore)
    writer.start()
    assert fine.result(_TIMEOUT_S) == (1,)
    for future in failing:
        assert isinstance(future.exception(_TIMEOUT_S), StorageError)
    logs[0]._file.writer.execute("PRAGMA max_page_count = 100000")
    assert writer.submit(logs[0], [_upsert("a", big)], _ignore).result(_TIMEOUT_S) == (1,)


def test_a_full_queue_refuses_at_once_and_takes_work_again_later(
    writer: RowWriter, logs: list[RowLog]
) -> None:
    waiting = writer.submit(logs[0], [_upsert(f"{row}") for row in range(8)], _ignore)
    assert writer.stats().queued_rows == 8
    with pytest.raises(Overloaded) as raised:
        writer.submit(logs[0], [_upsert("a")], _ignore)
    assert raised.value.retry_after_ms > 0
    with pytest.raises(InvalidArgument, match="9 at once, the limit is 8"):
        writer.submit(logs[0], [_upsert("a")] * 9, _ignore)
    writer.start()
    assert waiting.result(_TIMEOUT_S) == tuple(range(1, 9))
    assert writer.submit(logs[0], [_upsert("a")], _ignore).result(_TIMEOUT_S) == (9,)


def test_a_cancelled_job_that_has_not_begun_is_not_written(
    writer: RowWriter, logs: list[RowLog]
) -> None:
    cancelled = writer.submit(logs[0], [_upsert("a")], _ignore)
    assert cancelled.cancel()
    written = writer.submit(logs[0], [_upsert("b")], _ignore)
    writer.start()
    assert written.result(_TIMEOUT_S) == (1,)
    assert [row.id for row in logs[0].scan(after_seq=0, limit=9)] == ["b"]


def test_draining_writes_what_waits_and_takes_nothing_more(
    writer: RowWriter, logs: list[RowLog]
) -> None:
    futures = [writer.submit(logs[0], [_upsert("a")], _ignore) for _ in range(8)]
    writer.start()
    assert writer.drain(_TIMEOUT_S)
    assert [future.result(0) for future in futures] == [(seq,) for seq in range(1, 9)]
    with pytest.raises(Draining):
        writer.submit(logs[0], [_upsert("a")], _ignore)


def test_draining_in_vain_fails_what_still_waits(writer: RowWriter, logs: list[RowLog]) -> None:
    publishing, release = threading.Event(), threading.Event()
    stuck = writer.submit(logs[0], [_upsert("a")] * 6, _block(publishing, release))
    waiting = writer.submit(logs[0], [_upsert("b")], _ignore)
    writer.start()
    assert publishing.wait(_TIMEOUT_S)
    assert not writer.drain(0)
    assert isinstance(waiting.exception(0), Draining)
    release.set()
    assert stuck.result(_TIMEOUT_S)[0] == 1


def test_a_dead_thread_is_reported_and_leaves_nobody_waiting(
    writer: RowWriter, logs: list[RowLog], deaths: list[BaseException]
) -> None:
    def fail(committed: Committed) -> None:
        raise RuntimeError("a defect")

    done = writer.submit(logs[1], [_upsert("a")], _ignore)
    failing = writer.submit(logs[0], [_upsert("a")] * 5, fail)
    waiting = writer.submit(logs[0], [_upsert("b")] * 2, _ignore)
    writer.start()
    assert done.result(_TIMEOUT_S) == (1,)
    assert "may or may not be durable" in str(failing.exception(_TIMEOUT_S))
    assert "before this write began" in str(waiting.exception(_TIMEOUT_S))
    assert not writer.drain(_TIMEOUT_S)
    assert [str(death) for death in deaths] == ["a defect"]
    with pytest.raises(StorageError, match="has stopped"):
        writer.submit(logs[0], [_upsert("c")], _ignore)


def test_an_idle_thread_holds_nothing_of_what_it_wrote(writer: RowWriter) -> None:
    writer.start()
    log, released = Forgettable(), threading.Event()
    weakref.finalize(log, released.set)
    writer.submit(log, [Delete("a")], _ignore).result(_TIMEOUT_S)
    del log
    assert released.wait(_TIMEOUT_S)


class Forgettable:
    """A log that keeps nothing."""

    def commit(self, operations: Sequence[Operation]) -> Committed:
        return Committed(
            seqs=(None,) * len(operations),
            added_seqs=np.empty(0, np.int64),
            added_vectors=np.empty((0, 2), np.float16),
            removed_seqs=np.empty(0, np.int64),
        )


def _upsert(id_: str, payload: str = "{}") -> Upsert:
    return Upsert(NewRow(id=id_, vector=np.array([1, 0], np.float32), payload_json=payload))


def _ignore(committed: Committed) -> None:
    pass


def _block(begun: threading.Event, release: threading.Event) -> Callable[[Committed], None]:
    def block(committed: Committed) -> None:
        begun.set()
        assert release.wait(_TIMEOUT_S)

    return block

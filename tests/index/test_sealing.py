"""Builds that end early: crashes between any two steps, killed builders, no memory, no disk."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.index.oracle import (
    PATIENCE_S,
    ROWS,
    SMALL,
    UNMEASURED,
    InlineBuilder,
    Small,
    clustered,
    fill,
    options,
)
from vecserve_server.errors import Draining, StorageError
from vecserve_server.index.building.build_job import BuildJob, RowFiles
from vecserve_server.index.building.builder import EXPANSIONS, build
from vecserve_server.index.building.builder_process import BuilderProcess
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.building.source_rows import SourceRows
from vecserve_server.index.sealing import STEPS
from vecserve_server.index.segments.segment_files import SEQS, STRAYS, VECTORS
from vecserve_server.index.segments.segment_folder import SegmentFolder

DIM = 16


class Crash(BaseException):
    """The process would have ended here."""


def crash_at(name: str) -> Callable[[str], None]:
    def step(now: str) -> None:
        if now == name:
            raise Crash

    return step


@pytest.mark.parametrize("where", STEPS)
def test_a_crash_between_any_two_steps_loses_nothing(tmp_path: Path, where: str) -> None:
    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    small.index.maintain()
    fill(small, first=ROWS, rows=50)
    small.delete([f"r{number}" for number in range(5)])
    small.restart(step=crash_at(where))
    with pytest.raises(Crash):
        small.index.maintain()
    small.delete(["r9", "r70"])
    small.restart(step=lambda _: None)
    assert len(small.index) == len(small.expected)
    small.check_every_row_finds_itself()
    small.index.maintain()
    small.index.compact()
    assert not len(small.log.removed())
    assert len(list(small.segments.glob("*"))) == 2  # the manifest and one segment
    small.restart()
    small.check_every_row_finds_itself()
    small.close()


def test_the_steps_are_all_taken_in_order(tmp_path: Path) -> None:
    seen: list[str] = []
    small = Small(folder=tmp_path, dim=DIM, options=options(step=seen.append))
    fill(small)
    small.index.maintain()
    assert tuple(seen) == STEPS
    small.close()


def test_the_builder_process_builds_what_it_is_asked(tmp_path: Path) -> None:
    small = Small(folder=tmp_path, dim=DIM, maintenance=IndexMaintenance(costs=UNMEASURED))
    fill(small)
    small.index.maintain()
    assert small.index.stats.segments == 1
    small.check_every_row_finds_itself()
    small.close()


def test_a_killed_builder_costs_nothing_but_time(tmp_path: Path) -> None:
    small = Small(
        folder=tmp_path,
        dim=DIM,
        maintenance=IndexMaintenance(process=KilledBuilder(), costs=UNMEASURED),
    )
    fill(small)
    with pytest.raises(StorageError, match="ended with -9"):
        small.index.maintain()
    assert small.index.stats.failed_builds == 1
    small.check_every_row_finds_itself()
    small.index.maintain()  # not at once again
    assert small.index.stats.failed_builds == 1
    small.restart()
    small.check_every_row_finds_itself()
    small.close()


def test_a_segment_that_lacks_rows_is_not_published(tmp_path: Path) -> None:
    maintenance = IndexMaintenance(process=ForgetfulBuilder(), costs=UNMEASURED)
    small = Small(folder=tmp_path, dim=DIM, maintenance=maintenance)
    fill(small)
    with pytest.raises(StorageError, match=f"holds {ROWS - 1} rows, not {ROWS}"):
        small.index.maintain()
    assert small.index.stats.segments == 0
    small.check_every_row_finds_itself()
    small.close()


def test_a_full_disk_is_told_to_whoever_writes_rows(tmp_path: Path) -> None:
    rows = SourceRows(
        seqs=np.arange(1),
        vectors=(np.zeros((1, 1), np.float16),),
        owners=np.zeros(1, np.int64),
        places=np.zeros(1, np.int64),
        held_out=0,
    )
    (tmp_path / VECTORS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        rows.write(tmp_path, None)


class ForgetfulBuilder(InlineBuilder):
    """A builder whose rows came short, as files do on a full disk."""

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        for name, row_bytes in (("delta.i64", 8), ("delta.f16", 2 * DIM)):
            os.truncate(folder / name, (ROWS - 1) * row_bytes)
        super().run(folder, timeout_s=timeout_s, given_up=given_up)


class KilledBuilder(BuilderProcess):
    """A builder that the kernel kills, for want of memory perhaps."""

    def _start(self, folder: Path, output: int) -> subprocess.Popen[bytes]:
        child = super()._start(folder, output)
        child.send_signal(signal.SIGKILL)
        return child


def test_a_build_that_needs_too_much_memory_is_not_begun(tmp_path: Path) -> None:
    small = Small(folder=tmp_path, dim=DIM)
    small.restart(build_memory_bytes=1 << 20)
    fill(small)
    with pytest.raises(StorageError, match="1 MiB are allowed"):
        small.index.maintain()
    small.check_every_row_finds_itself()
    small.close()


def test_a_build_on_a_full_disk_fails_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    monkeypatch.setattr("vecserve_server.index.sealing.write_job", full)
    with pytest.raises(StorageError, match="No space left"):
        small.index.maintain()
    assert not list(small.segments.glob("*"))
    small.check_every_row_finds_itself()
    small.close()


def test_a_builder_does_not_outlive_its_server(tmp_path: Path) -> None:
    script = Path(__file__).with_name("endless_build.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        builder = int(parent.stdout.readline())
        parent.kill()
    assert _ended(builder)


def _ended(pid: int) -> bool:
    """Wait for the end of a process that is not a child of this one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], PATIENCE_S)[0])
    finally:
        os.close(process)


@pytest.mark.parametrize("name", [SEQS, VECTORS, STRAYS])
def test_a_disk_that_fills_up_fails_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("vecserve_server.index.building.builder._strays", lambda *_: np.arange(3))
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / name).symlink_to("/dev/full")
    np.arange(ROWS, dtype="<i8").tofile(tmp_path / "seqs")
    clustered(ROWS, DIM, seed=1).astype("<f2").tofile(tmp_path / "vectors")
    source = RowFiles(seqs=str(tmp_path / "seqs"), vectors=str(tmp_path / "vectors"), left_out="")
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path / "made", BuildJob(dim=DIM, sources=(source,)))


@pytest.mark.parametrize("name", ["_DELTA_SEQS", "_DELTA_VECTORS"])
def test_a_disk_that_fills_up_before_the_builder_begins_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(f"vecserve_server.index.sealing.{name}", "/dev/full")
    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    with pytest.raises(StorageError, match="No space left"):
        small.index.maintain()
    small.check_every_row_finds_itself()
    small.close()


def test_a_build_that_waits_for_another_can_be_given_up(tmp_path: Path) -> None:
    process, over = SleepingBuilder(), threading.Event()
    errors: list[BaseException] = []

    def run(folder: Path, given_up: Callable[[], bool]) -> None:
        folder.mkdir()
        with pytest.raises(Draining) as raised:
            process.run(folder, timeout_s=600, given_up=given_up)
        errors.append(raised.value)

    running = threading.Thread(target=run, args=(tmp_path / "a", over.is_set), daemon=True)
    running.start()
    assert process.began.wait(PATIENCE_S)
    looks = iter([False, True, True])
    waiting = threading.Thread(target=run, args=(tmp_path / "b", looks.__next__), daemon=True)
    waiting.start()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    over.set()
    running.join(PATIENCE_S)
    assert len(errors) == 2


class SleepingBuilder(BuilderProcess):
    """A builder that takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def _start(self, folder: Path, output: int) -> subprocess.Popen[bytes]:
        self.began.set()
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_few_new_rows_do_not_narrow_the_search_of_a_graph(tmp_path: Path) -> None:
    job = BuildJob(dim=0, sources=(), rotated_rows=30, target_recall=2.0, least_recall=0.0)
    extending = replace(SMALL, merge_ratio=20)
    small = Small(folder=tmp_path, dim=DIM, options=replace(options(thresholds=extending), job=job))
    vectors, expansions = clustered(ROWS, DIM, seed=1), []
    # Vectors that the graph's codes suit.
    for some in (vectors, vectors[20:27]):
        small.upsert([f"r{len(small.expected) + n}" for n in range(len(some))], some)
        small.index.maintain()
        [view] = small.index._live.snapshot.views
        expansions.append((view.segment.record.expansion, len(view.segment.record.runs)))
    assert expansions == [(EXPANSIONS[-1], 2), (EXPANSIONS[-1], 4)]
    small.close()


def test_compacting_leaves_segments_without_dead_rows_alone(tmp_path: Path) -> None:
    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    small.index.maintain()
    before = set(small.segments.glob("segment-*"))
    fill(small, first=ROWS, rows=10)
    small.index.maintain()
    assert small.index.stats.segments == 2
    small.delete([f"r{ROWS + 3}"])
    small.index.compact()
    assert small.index.stats.dead_rows == 0
    assert before < set(small.segments.glob("segment-*"))
    builds = small.index.stats.builds
    small.index.compact()
    assert small.index.stats.builds == builds
    small.check_every_row_finds_itself()
    small.close()


def test_a_graph_with_a_few_dead_rows_is_extended(tmp_path: Path) -> None:
    extending = replace(SMALL, merge_ratio=50, least_dead_rows=50)
    small = Small(folder=tmp_path, dim=DIM, options=options(thresholds=extending))
    fill(small, rows=600)
    small.index.maintain()
    small.delete(["r1", "r2"])
    vectors = clustered(600, DIM, seed=1)[20:60]
    small.upsert([f"x{number}" for number in range(40)], vectors)
    small.index.maintain()
    [view] = small.index._live.snapshot.views
    assert (view.segment.rows, view.dead, len(view.segment.record.runs)) == (640, 2, 4)
    small.check_every_row_finds_itself()
    small.close()


def test_a_folder_that_cannot_be_swept_is_no_failed_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("cannot be swept")

    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    monkeypatch.setattr(SegmentFolder, "sweep", fail)
    small.index.maintain()
    assert (small.index.stats.builds, small.index.stats.failed_builds) == (1, 0)
    # Whoever wants deleted rows gone is told that they are not.
    with pytest.raises(StorageError, match="cannot be swept"):
        small.index.compact()
    monkeypatch.undo()
    small.close()

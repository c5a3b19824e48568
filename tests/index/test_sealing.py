"""Builds that end early: crashes between any two steps, killed builders, no memory, no disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.index.oracle import UNMEASURED, InlineBuilder, Small, clustered, options
from vecserve_server.errors import Draining, StorageError
from vecserve_server.index.builder_process import BuilderProcess
from vecserve_server.index.maintenance import IndexMaintenance
from vecserve_server.index.sealing import STEPS
from vecserve_server.index.segment_files import VECTORS
from vecserve_server.index.source_rows import SourceRows

DIM, ROWS = 16, 60
PATIENCE_S = 20.0


class Crash(BaseException):
    """The process would have ended here."""


def crash_at(name: str) -> Callable[[str], None]:
    def step(now: str) -> None:
        if now == name:
            raise Crash

    return step


def fill(small: Small, *, first: int = 0, rows: int = ROWS) -> None:
    ids = [f"r{number}" for number in range(first, first + rows)]
    small.upsert(ids, clustered(rows, small.dim, seed=first + 1))


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


def test_closing_gives_a_running_build_up(tmp_path: Path) -> None:
    small = Small(folder=tmp_path, dim=DIM, maintenance=IndexMaintenance(costs=UNMEASURED))
    began = threading.Event()
    small.restart(step=lambda _: began.set())
    fill(small)
    errors: list[BaseException] = []

    def maintain() -> None:
        try:
            small.index.maintain()
        except Draining as error:
            errors.append(error)

    worker = threading.Thread(target=maintain)
    worker.start()
    assert began.wait(PATIENCE_S)
    small.close()
    worker.join(PATIENCE_S)
    assert not worker.is_alive()
    assert len(errors) == 1 or small.index.stats.builds == 1


def test_the_thread_builds_what_is_due_and_survives_failures(tmp_path: Path) -> None:
    maintenance = IndexMaintenance(costs=UNMEASURED)
    maintenance.start()
    published = threading.Event()
    broken = Small(folder=tmp_path, dim=DIM, maintenance=maintenance)
    broken.restart(build_memory_bytes=1)
    fill(broken)
    (tmp_path / "whole").mkdir()
    whole = Small(folder=tmp_path / "whole", dim=DIM, maintenance=maintenance)
    whole.restart(step=lambda name: published.set() if name == "swapped" else None)
    fill(whole)
    assert published.wait(PATIENCE_S)
    assert maintenance.stop(PATIENCE_S)
    broken.close()
    whole.close()


def test_a_builder_does_not_outlive_its_server(tmp_path: Path) -> None:
    script = Path(__file__).with_name("endless_build.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        builder = int(parent.stdout.readline())
        parent.kill()
    deadline_s = time.monotonic() + PATIENCE_S
    while _runs(builder):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def test_an_index_can_be_built_again_after_a_failure(tmp_path: Path) -> None:
    clock = iter(range(0, 10**9, 100))
    small = Small(
        folder=tmp_path,
        dim=DIM,
        options=replace(options(), build_memory_bytes=1, clock_s=lambda: float(next(clock))),
    )
    fill(small)
    with pytest.raises(StorageError):
        small.index.maintain()
    small.restart(build_memory_bytes=0)
    small.index.maintain()
    assert small.index.stats.builds == 1
    small.close()

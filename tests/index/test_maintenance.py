"""The thread that maintains indexes, and what closing one means for it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.index.oracle import (
    PATIENCE_S,
    UNMEASURED,
    InlineBuilder,
    Small,
    clustered,
    fill,
    options,
)
from vecserve_server.errors import Draining, StorageError
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.vectors.planning import Costs

DIM = 16


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


def test_a_failed_build_is_tried_again_though_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecserve_server.index.building.maintenance._RETRY_S", 0.01)
    clock, published = iter(range(0, 10**9, 5)), threading.Event()
    maintenance = IndexMaintenance(process=FailsOnce(), costs=UNMEASURED)
    small = Small(
        folder=tmp_path,
        dim=DIM,
        maintenance=maintenance,
        options=replace(
            options(step=lambda name: published.set() if name == "swapped" else None),
            clock_s=lambda: float(next(clock)),
        ),
    )
    fill(small)
    maintenance.start()
    assert published.wait(PATIENCE_S)
    assert maintenance.stop(PATIENCE_S)
    assert small.index.stats.failed_builds == 1
    small.close()


class FailsOnce(InlineBuilder):
    """A builder that has no luck at first."""

    failed = False

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        if not self.failed:
            self.failed = True
            raise StorageError("no luck")
        super().run(folder, timeout_s=timeout_s, given_up=given_up)


def test_builds_that_fail_leave_no_heap_of_deltas(tmp_path: Path) -> None:
    small = Small(
        folder=tmp_path, dim=DIM, options=replace(options(), build_memory_bytes=1, clock_s=later())
    )
    fill(small)
    for number in range(20):
        with pytest.raises(StorageError):
            small.index.maintain()
        small.upsert([f"r{number}"], clustered(1, DIM, seed=number))
    assert small.index.stats.failed_builds == 20
    assert len(small.index._live.snapshot.deltas) <= 3
    small.check_every_row_finds_itself()
    small.restart(build_memory_bytes=0)
    small.index.maintain()
    small.check_every_row_finds_itself()
    small.close()


def later() -> Callable[[], float]:
    """A clock that goes on by more than any wait between two looks."""
    clock = iter(range(0, 10**9, 1000))
    return lambda: float(next(clock))


def test_closing_does_not_wait_for_a_measurement(tmp_path: Path) -> None:
    measuring, measured = threading.Event(), threading.Event()

    def measure(_: int) -> Costs:
        measuring.set()
        assert measured.wait(PATIENCE_S)
        return Costs()

    maintenance = IndexMaintenance(process=InlineBuilder(), costs=MeasuredCosts(measure))
    small = Small(folder=tmp_path, dim=DIM, maintenance=maintenance)
    fill(small)
    maintenance.start()
    assert measuring.wait(PATIENCE_S)
    closing = threading.Thread(target=small.close)
    closing.start()
    closing.join(PATIENCE_S / 2)
    assert not closing.is_alive()
    measured.set()
    assert maintenance.stop(PATIENCE_S)
    assert small.index.stats.builds == 0


def test_a_closed_index_neither_compacts_nor_verifies(tmp_path: Path) -> None:
    small = Small(folder=tmp_path, dim=DIM)
    fill(small)
    small.index.maintain()
    small.delete(["r1"])
    small.close()
    for work in (small.index.compact, small.index.verify):
        with pytest.raises(Draining):
            work()
    assert small.index.stats.dead_rows == 1


def test_an_idle_thread_holds_no_index(tmp_path: Path) -> None:
    maintenance, released = IndexMaintenance(costs=UNMEASURED), threading.Event()
    maintenance.start()
    index = Idle()
    weakref.finalize(index, released.set)
    maintenance.wake(index)
    assert index.served.wait(PATIENCE_S)
    del index
    assert released.wait(PATIENCE_S)
    assert maintenance.stop(PATIENCE_S)


class Idle:
    """An index that never has anything to do."""

    def __init__(self) -> None:
        self.served = threading.Event()

    def maintain(self) -> bool:
        self.served.set()
        return True


class Held:
    """Has one thing to do, which ends when it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def maintain(self) -> bool:
        return self.released.wait(PATIENCE_S)


def test_it_tells_when_nothing_is_due_any_more() -> None:
    maintenance = IndexMaintenance(costs=UNMEASURED)
    index = Held()
    maintenance.wake(index)
    maintenance.start()
    assert not maintenance.settled(0)
    index.released.set()
    assert maintenance.settled(PATIENCE_S)
    assert maintenance.stop(PATIENCE_S)

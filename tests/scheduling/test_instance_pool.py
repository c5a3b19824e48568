"""Instances: threads that die are replaced, and models share the cores."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from vecserve_server.errors import VecserveError
from vecserve_server.scheduling import instance_pool
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.worker_thread import WorkerThread

PATIENCE_S = 10.0


class Model:
    """Runs numbers while its gate is open, and notes how that went."""

    def __init__(
        self, run: Callable[[int], int], *, instances: int = 1, cores: Cores | None = None
    ) -> None:
        self.gate = threading.Event()
        self.work = run
        self.todo: list[int] = []
        self.finished: list[Finished[int]] = []
        self.news = asyncio.Event()
        self.pool: InstancePool[int, int] = InstancePool(
            name="m",
            runs=[self._run] * instances,
            on_finish=self._on_finish,
            on_free=self.dispatch,
            cores=cores,
            clock_ns=time.perf_counter_ns,
        )

    def _run(self, number: int) -> int:
        assert self.gate.wait(PATIENCE_S)
        return self.work(number)

    def _on_finish(self, number: int, finished: Finished[int]) -> None:
        assert number not in self.pool.unfinished
        self.finished.append(finished)
        self.news.set()
        self.dispatch()

    def dispatch(self) -> None:
        while self.todo and self.pool.available():
            self.pool.start(self.todo.pop())

    async def outcomes(self, count: int) -> list[int | Exception]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.finished) < count:
                self.news.clear()
                await self.news.wait()
        return [each.outcome for each in self.finished]


def double(number: int) -> int:
    if number < 0:
        raise SystemExit("killed")
    if number == 0:
        raise ValueError("nothing")
    return number * 2


async def test_a_run_that_raises_is_told_and_its_instance_goes_on() -> None:
    model = Model(double)
    model.gate.set()
    model.todo = [3, 0]
    model.dispatch()
    error, six = await model.outcomes(2)
    assert isinstance(error, ValueError)
    assert six == 6
    assert await model.pool.close(PATIENCE_S)


async def test_a_thread_that_dies_is_replaced() -> None:
    model = Model(double)
    model.gate.set()
    model.todo = [5, -1, 4]
    model.dispatch()
    eight, died, ten = await model.outcomes(3)
    assert (eight, ten) == (8, 10)
    assert isinstance(died, VecserveError)
    assert await model.pool.close(PATIENCE_S)


async def test_an_instance_for_which_there_is_no_thread_starts_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = [RuntimeError("can't start new thread")] * 2

    class Scarce(WorkerThread):
        def __init__(
            self, *, name: str, on_death: Callable[[BaseException], None], niceness: int
        ) -> None:
            if refusals:
                raise refusals.pop()
            super().__init__(name=name, on_death=on_death, niceness=niceness)

    monkeypatch.setattr(instance_pool, "WorkerThread", Scarce)
    monkeypatch.setattr(instance_pool, "RESTART_S", 0.001)
    model = Model(double)
    model.gate.set()
    model.todo = [1]
    model.dispatch()
    assert model.todo == [1]
    assert await model.outcomes(1) == [2]
    assert await model.pool.close(PATIENCE_S)


async def test_what_does_not_end_in_time_is_named() -> None:
    model = Model(double)
    model.todo = [7]
    model.dispatch()
    assert not await model.pool.close(0.01)
    assert model.pool.unfinished == [7]
    model.gate.set()
    assert await model.outcomes(1) == [14]


async def test_models_that_share_cores_each_run_and_no_more_than_there_are_cores() -> None:
    cores = Cores(count=2)
    one, other = (Model(double, instances=3, cores=cores) for _ in range(2))
    one.todo, other.todo = [1, 2, 3, 4], [5, 6]
    one.dispatch()
    assert sorted(one.pool.unfinished) == [2, 3, 4], "alone it has all its instances"
    other.dispatch()
    assert other.pool.unfinished == [6], "it need not wait for the other, once"
    one.gate.set()
    assert len(await one.outcomes(4)) == 4
    # The other model goes on when the first has nothing left, although none of its own runs ended.
    assert sorted(other.pool.unfinished) == [5, 6]
    other.gate.set()
    assert len(await other.outcomes(2)) == 2
    for model in (one, other):
        assert await model.pool.close(PATIENCE_S)

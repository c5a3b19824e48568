"""Threads that yield: how nice they are, and who is."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.instance_pool import Finished, InstancePool
from vecserve_server.scheduling.niceness import yield_to_others

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only on Linux has each thread a niceness of its own"
)
PATIENCE_S = 10.0


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def niceness_in_a_thread_of_its_own(*wanted: int) -> int:
    def work() -> int:
        for each in wanted:
            yield_to_others(each)
        with ThreadPoolExecutor(1) as started_here:
            return started_here.submit(niceness).result(PATIENCE_S)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(PATIENCE_S)


@pytest.mark.parametrize("wanted", [0, 1, 10])
def test_a_thread_is_nicer_by_so_much_and_so_are_those_that_it_starts(wanted: int) -> None:
    before = niceness()
    assert niceness_in_a_thread_of_its_own(wanted) == min(before + wanted, 19)
    assert niceness() == before, "the others are as they were"


def test_there_is_nothing_nicer_than_the_nicest() -> None:
    assert niceness_in_a_thread_of_its_own(15, 15) == 19


@pytest.mark.parametrize("wanted", [0, 7])
async def test_runs_on_shared_cores_yield_as_the_cores_say(wanted: int) -> None:
    found: list[int] = []
    done = asyncio.Event()

    def on_finish(_: int, run: Finished[int]) -> None:
        assert isinstance(run.outcome, int)
        found.append(run.outcome)
        done.set()

    pool: InstancePool[int, int] = InstancePool(
        name="m",
        runs=[lambda _: niceness()],
        on_finish=on_finish,
        on_free=lambda: None,
        cores=Cores(count=1, niceness=wanted),
        clock_ns=lambda: 0,
    )
    pool.start(1)
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    assert found == [min(niceness() + wanted, 19)]
    assert await pool.close(PATIENCE_S)

"""Work on whole collections: shared, bounded, and ended once nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from vecserve_server.errors import DeadlineExceeded, Draining, Overloaded
from vecserve_server.services.upkeep_jobs import UpkeepJobs
from vecserve_server.storage.files.read_limit import ReadLimit

PATIENCE_S = 60.0


class Work:
    """Begins, and ends when it is released or given up."""

    def __init__(self) -> None:
        self.limits: list[ReadLimit] = []
        self.begun, self.released = asyncio.Event(), asyncio.Event()

    async def __call__(self, limit: ReadLimit) -> int:
        self.limits.append(limit)
        number = len(self.limits)
        self.begun.set()
        while not self.released.is_set():
            if limit():
                raise limit.error()
            await asyncio.sleep(0)
        return number


@pytest.fixture
def jobs() -> UpkeepJobs:
    return UpkeepJobs(threads=2, max_jobs=4, clock_ns=time.perf_counter_ns)


@pytest.fixture
async def work() -> Work:
    return Work()


def caller(share: Awaitable[int]) -> asyncio.Task[int]:
    async def wait() -> int:
        async with asyncio.timeout(PATIENCE_S):
            return await share

    return asyncio.create_task(wait())


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_callers_share_what_is_under_way(jobs: UpkeepJobs, work: Work) -> None:
    callers = [caller(jobs.share("verify", "a", work)) for _ in range(4000)]
    await work.begun.wait()
    assert len(jobs) == 1
    work.released.set()
    assert await asyncio.gather(*callers) == [1] * 4000
    assert len(jobs) == 0


async def test_it_ends_once_the_last_caller_has_left(jobs: UpkeepJobs, work: Work) -> None:
    first, second = (caller(jobs.share("verify", "a", work)) for _ in range(2))
    await work.begun.wait()
    first.cancel()
    await asyncio.wait([first])
    assert not work.limits[0]()
    second.cancel()
    await asyncio.wait([second])
    assert work.limits[0]()
    # Who comes now has to do with another one.
    third = caller(jobs.share("verify", "a", work))
    work.released.set()
    assert await third == 2
    async with asyncio.timeout(PATIENCE_S):
        await jobs.settled()
    assert len(jobs) == 0


async def test_one_of_a_kind_works_on_a_collection(jobs: UpkeepJobs, work: Work) -> None:
    first = caller(jobs.share("snapshot", "a", work, detail="monday"))
    await work.begun.wait()
    second = caller(jobs.share("snapshot", "a", work, detail="tuesday"))
    other = caller(jobs.share("verify", "a", work))
    await settled(lambda: len(work.limits) == 2)
    assert len(jobs) == 3
    second.cancel()  # it never begins
    await asyncio.wait([second])
    work.released.set()
    assert {await first, await other} == {1, 2}
    async with asyncio.timeout(PATIENCE_S):
        await jobs.settled()
    assert len(jobs) == 0
    assert len(work.limits) == 2


async def test_more_than_may_wait_are_refused(jobs: UpkeepJobs, work: Work) -> None:
    callers = [caller(jobs.share("verify", name, work)) for name in "abcd"]
    await work.begun.wait()
    await settled(lambda: len(jobs) == 4)
    assert len(work.limits) == 2
    with pytest.raises(Overloaded, match=r"limits\.max_upkeep_jobs = 4"):
        await jobs.share("verify", "e", work)
    work.released.set()
    assert sorted(await asyncio.gather(*callers)) == [1, 2, 3, 4]


async def test_a_compaction_is_shared_by_those_who_came_before_it_began(
    jobs: UpkeepJobs, work: Work
) -> None:
    first = caller(jobs.share("compaction", "a", work, until_begun=True))
    await work.begun.wait()
    later = [caller(jobs.share("compaction", "a", work, until_begun=True)) for _ in range(9)]
    await settled(lambda: len(jobs) == 2)
    work.released.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 9


async def test_closing_ends_what_works_and_what_waits(jobs: UpkeepJobs, work: Work) -> None:
    callers = [caller(jobs.share("verify", name, work)) for name in "abc"]
    await settled(lambda: len(work.limits) == 2)
    await jobs.close()
    ended = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(one) for one in ended] == [DeadlineExceeded, DeadlineExceeded, Draining]

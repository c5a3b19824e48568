"""Leases: nobody loses what he uses before the time is over."""

from __future__ import annotations

import asyncio
import time

from vecserve_server.serving.leases import Leases


async def test_the_last_user_ends_the_wait() -> None:
    leases = Leases()
    assert await leases.drained(0)
    with leases.hold():
        with leases.hold():
            waiting = asyncio.create_task(leases.drained(60))
            await asyncio.sleep(0)
        assert not waiting.done()
    assert await waiting


async def test_the_wait_has_an_end() -> None:
    leases = Leases()
    with leases.hold():
        assert not await leases.drained(0.01)
        assert not await leases.drained(0)


async def test_a_standstill_of_the_process_uses_up_a_step_at_most() -> None:
    leases = Leases()
    with leases.hold():
        waiting = asyncio.create_task(leases.drained(1.2))
        await asyncio.sleep(0)
        time.sleep(1.3)  # noqa: ASYNC251 - the loop stands still
        await asyncio.sleep(0.01)
    assert await waiting

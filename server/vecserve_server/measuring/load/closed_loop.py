"""Closed loops through the asynchronous client: each calls again as soon as its answer is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vecserve_client import AsyncClient
from vecserve_server.measuring.statistics import percentiles

Call: TypeAlias = Callable[[AsyncClient, int], Awaitable[object]]
"""Make the call of that number."""

_STRIDE: Final = 7919
"""Prime, so that loops do not ask the same at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRate:
    """Rate and latencies of some calls."""

    calls_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def call_rate(latencies_ms: Sequence[float], seconds: float) -> CallRate:
    """Summarise calls that were made within so many seconds."""
    return CallRate(
        calls_per_second=round(len(latencies_ms) / seconds, 1),
        **percentiles(latencies_ms).as_json("ms", 3),
    )


async def sweep(
    target: str, client_counts: Sequence[int], seconds: float, call: Call
) -> dict[str, CallRate]:
    """Run loops of several sizes, one after the other; return the rates by number of clients."""
    async with AsyncClient(target=target) as client:
        return {
            str(clients): call_rate(await closed_loops(client, clients, seconds, call), seconds)
            for clients in client_counts
        }


async def closed_loops(
    client: AsyncClient, clients: int, seconds: float, call: Call
) -> list[float]:
    """Keep so many calls in flight; return the milliseconds of each."""
    stop_s = time.perf_counter() + seconds
    loops = [_loop(client, call, first, stop_s) for first in range(clients)]
    return [ms for each in await asyncio.gather(*loops) for ms in each]


async def _loop(client: AsyncClient, call: Call, number: int, stop_s: float) -> list[float]:
    latencies_ms = []
    while (began_s := time.perf_counter()) < stop_s:
        await call(client, number)
        latencies_ms.append((time.perf_counter() - began_s) * 1000)
        number += _STRIDE
    return latencies_ms

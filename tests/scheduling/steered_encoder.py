"""An encoder that a test steers, and a batcher over it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.batcher import DynamicBatcher, QueueBounds
from vecserve_server.scheduling.computation import Computation, Encoded, RunEncoder, abandoned
from vecserve_server.scheduling.policies.encoder_policy import Choose, EncoderPolicy
from vecserve_server.scheduling.policies.policy import BatchPolicy

PATIENCE_S = 10.0


class Gate:
    """An encoder whose vector is the first token id; it runs only while the gate is open."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.runs: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.poison: dict[int, BaseException] = {}

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        self.runs.append([int(ids[0]) for ids in sequences])
        self.entered.release()
        assert self.opened.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        for number in self.runs[-1]:
            if number in self.poison:
                raise self.poison[number]
        vectors = np.array([[ids[0], len(ids)] for ids in sequences], np.float32)
        return Encodings(vectors, vectors[:, 0] * 10)

    async def wait_for_a_run(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


def make_batcher(
    gate: Gate,
    policy: BatchPolicy[Computation],
    *,
    run: RunEncoder | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> DynamicBatcher:
    return DynamicBatcher(
        name="m",
        dim=2,
        runs=[run or gate.run],
        policy=policy,
        bounds=QueueBounds(entries=100, tokens=400),
        clock_ns=clock_ns,
        metrics=make_metrics(),
        statistics=ModelStatistics(wall_clock_ms=int),
    )


@asynccontextmanager
async def encoding(
    gate: Gate, *, run_tokens: int = 256, choose: Choose | None = None
) -> AsyncIterator[DynamicBatcher]:
    """Start a batcher with the encoders' policy."""
    policy: EncoderPolicy[Computation] = EncoderPolicy(
        run_tokens=run_tokens,
        min_share_tokens=64,
        look_ahead_entries=64,
        abandoned=abandoned,
        choose=choose,
    )
    batcher = make_batcher(gate, policy)
    try:
        yield batcher
    finally:
        gate.opened.set()
        assert await batcher.close(PATIENCE_S)


def ids(*numbers: int) -> list[TokenIds]:
    return [np.array([number, 0, 0], np.int64) for number in numbers]


async def queued_behind_a_run(
    batcher: DynamicBatcher, gate: Gate, *calls: Sequence[int]
) -> list[asyncio.Task[Encoded]]:
    """Submit the calls while the instance is busy with 0, and let it go on."""
    gate.opened.clear()
    tasks = [asyncio.create_task(batcher.submit(ids(0)))]
    await gate.wait_for_a_run()
    tasks += [asyncio.create_task(batcher.submit(ids(*call))) for call in calls]
    await asyncio.sleep(0)
    gate.opened.set()
    return tasks


async def answers(tasks: Sequence[asyncio.Task[Encoded]]) -> list[list[int] | str]:
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        str(each) if isinstance(each, BaseException) else each.encodings.vectors[:, 0].tolist()
        for each in outcomes
    ]

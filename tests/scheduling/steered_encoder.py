"""An encoder that a test steers, and a batcher over it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.batcher import DynamicBatcher, QueueBounds, RunEncoder
from vecserve_server.scheduling.computation import Computation, Computations, abandoned
from vecserve_server.scheduling.cores import Cores
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


Sequences: TypeAlias = Computation[TokenIds]


@dataclass(frozen=True)
class Encoded:
    """What a call got."""

    encodings: Encodings
    timings: Timings


class TextBatcher:
    """A batcher for token sequences that is asked without an `Urgency`."""

    def __init__(
        self,
        *,
        runs: Sequence[RunEncoder[TokenIds]],
        policy: BatchPolicy[Sequences],
        dim: int = 2,
        bounds: QueueBounds,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
        cores: Cores | None = None,
        share_identical: bool = True,
    ) -> None:
        self._statistics = ModelStatistics(wall_clock_ms=int)
        self.compute: DynamicBatcher[TokenIds] = DynamicBatcher(
            name="m",
            dim=dim,
            runs=runs,
            computations=Computations(
                key=np.ndarray.tobytes, cost=len, share_identical=share_identical
            ),
            policy=policy,
            bounds=bounds,
            clock_ns=clock_ns,
            metrics=make_metrics(),
            on_run=self._count,
            cores=cores,
        )

    @property
    def queued(self) -> int:
        return self.compute.queued

    def admit(
        self,
        count: int,
        *,
        tokens: int,
        priority: int = 0,
        deadline_ns: int | None = None,
        start_by_ns: int | None = None,
    ) -> None:
        urgency = Urgency(priority=priority, deadline_ns=deadline_ns, start_by_ns=start_by_ns)
        self.compute.admit(count, cost=tokens, urgency=urgency)

    async def submit(
        self,
        sequences: Sequence[TokenIds],
        *,
        priority: int = 0,
        deadline_ns: int | None = None,
        start_by_ns: int | None = None,
        admitted: bool = False,
    ) -> Encoded:
        urgency = Urgency(priority=priority, deadline_ns=deadline_ns, start_by_ns=start_by_ns)
        computed = await self.compute.submit(sequences, urgency, admitted=admitted)
        return Encoded(computed.result, computed.timings)

    async def close(self, timeout_s: float) -> bool:
        return await self.compute.close(timeout_s)

    def _count(self, *run: int) -> None:
        self._statistics.executed(*run)  # looked up here, since a failure may be planted in it


def make_batcher(
    gate: Gate,
    policy: BatchPolicy[Sequences],
    *,
    run: RunEncoder[TokenIds] | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> TextBatcher:
    return TextBatcher(
        runs=[run or gate.run],
        policy=policy,
        bounds=QueueBounds(entries=100, tokens=400),
        clock_ns=clock_ns,
    )


@asynccontextmanager
async def encoding(
    gate: Gate, *, run_tokens: int = 256, choose: Choose | None = None
) -> AsyncIterator[TextBatcher]:
    """Start a batcher with the encoders' policy."""
    policy: EncoderPolicy[Sequences] = EncoderPolicy(
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
    batcher: TextBatcher, gate: Gate, *calls: Sequence[int]
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

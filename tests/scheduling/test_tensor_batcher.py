"""The tensor batcher's futures, threads and order, with a model that the test steers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import (
    DeadlineExceeded,
    Draining,
    Overloaded,
    QueueTimeout,
    VecserveError,
)
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.scheduling.dispatcher import OnBatch
from vecserve_server.scheduling.policies.policy import BatchPolicy
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)
from vecserve_server.scheduling.run import RunStop
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.tensor_payload import Waiting, abandoned
from vecserve_server.scheduling.tensor_run import Arrays, Part

PATIENCE_S = 10.0
POISON, MURDER = -1.0, -2.0
BATCHED = TritonPolicySettings(max_batch_size=8, preferred_batch_sizes=(8,))


class Gate:
    """A model that doubles x; it runs only while the gate is open, and some values break it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.runs: list[list[float]] = []
        self.entered = threading.Semaphore(0)

    def run(self, inputs: Arrays, outputs: Sequence[str], stop: RunStop) -> list[np.ndarray]:
        values = inputs["x"][:, 0].tolist()
        self.runs.append(values)
        self.entered.release()
        assert self.opened.wait(PATIENCE_S)
        if POISON in values:
            raise ValueError("poison")
        if MURDER in values:
            raise SystemExit("murder")
        return [inputs["x"] * 2 for _ in outputs]

    async def wait_for_a_run(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


@asynccontextmanager
async def started(
    gate: Gate,
    settings: TritonPolicySettings = BATCHED,
    *,
    instances: int = 1,
    policy: BatchPolicy[Waiting] | None = None,
    on_run: OnBatch = lambda *_: None,
) -> AsyncIterator[TensorBatcher]:
    batcher = TensorBatcher(
        name="m",
        runs=[gate.run] * instances,
        policy=TritonPolicy(settings=settings, abandoned=abandoned) if policy is None else policy,
        preserve_ordering=settings.preserve_ordering,
        clock_ns=time.perf_counter_ns,
        metrics=make_metrics(),
        on_run=on_run,
    )
    try:
        yield batcher
    finally:
        gate.opened.set()
        assert await batcher.close(PATIENCE_S)


def ask(batcher: TensorBatcher, value: float, rows: int = 1, **more: int) -> asyncio.Task[float]:
    async def asked() -> float:
        x = np.full((rows, 1), value, np.float32)
        part = Part(inputs={"x": x}, outputs=("y",), rows=rows)
        answer = await batcher.submit(part, Urgency(**more))
        assert answer.result["y"].shape == (rows, 1)
        assert answer.timings.queue_ns >= 0
        return float(answer.result["y"][0, 0])

    return asyncio.create_task(asked())


async def settle() -> None:
    """Let tasks that were created reach their first wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_arrives_during_a_run_is_the_next_batch() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        first = ask(batcher, 1)
        await gate.wait_for_a_run()
        others = [ask(batcher, value, rows=2) for value in (2, 3)]
        await settle()
        assert batcher.queued == 2
        gate.opened.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6]
    assert gate.runs == [[1], [2, 2, 3, 3]]


async def test_without_dynamic_batching_every_request_runs_alone_in_order() -> None:
    gate = Gate()
    async with started(gate, TritonPolicySettings(max_batch_size=8)) as batcher:
        assert await asyncio.gather(*(ask(batcher, value) for value in range(5))) == [0, 2, 4, 6, 8]
    assert gate.runs == [[0], [1], [2], [3], [4]]


async def test_instances_run_side_by_side() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate, TritonPolicySettings(max_batch_size=8), instances=2) as batcher:
        asked = [ask(batcher, value) for value in (1, 2)]
        await gate.wait_for_a_run()
        await gate.wait_for_a_run()
        gate.opened.set()
        assert await asyncio.gather(*asked) == [2, 4]


async def test_a_poisoned_request_fails_alone() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        first = ask(batcher, 0)
        await gate.wait_for_a_run()
        mates = [ask(batcher, value) for value in (1, POISON, 2)]
        await settle()
        gate.opened.set()
        answers = await asyncio.gather(first, *mates, return_exceptions=True)
    assert answers[0::3] == [0, 4]
    assert answers[1] == 2
    assert isinstance(answers[2], ValueError)
    assert gate.runs == [[0], [1, POISON, 2], [1], [POISON, 2], [POISON], [2]]


async def test_a_dead_thread_is_replaced_and_its_batch_is_run_again() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        first = ask(batcher, 0)
        await gate.wait_for_a_run()
        mates = [ask(batcher, value) for value in (1, MURDER, 2)]
        await settle()
        gate.opened.set()
        answers = await asyncio.gather(first, *mates, return_exceptions=True)
        assert await ask(batcher, 5) == 10
    assert isinstance(answers.pop(2), VecserveError)
    assert answers == [0, 2, 4]


async def test_cancelled_and_expired_requests_cost_nothing() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        first = ask(batcher, 1)
        await gate.wait_for_a_run()
        cancelled = ask(batcher, 2)
        expired = ask(batcher, 3, deadline_ns=time.perf_counter_ns() + 1_000_000)
        kept = ask(batcher, 4)
        await settle()
        cancelled.cancel()
        with pytest.raises(DeadlineExceeded):
            await expired
        gate.opened.set()
        assert (await first, await kept) == (2, 8)
        assert cancelled.cancelled()
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, 5, deadline_ns=time.perf_counter_ns())
    assert gate.runs == [[1], [4]]


async def test_a_queue_timeout_is_told_while_the_instance_is_busy() -> None:
    gate = Gate()
    gate.opened.clear()
    policy = QueuePolicySettings(default_timeout_us=2_000)
    settings = TritonPolicySettings(
        max_batch_size=8, preferred_batch_sizes=(8,), default_queue_policy=policy
    )
    async with started(gate, settings) as batcher:
        first = ask(batcher, 1)
        await gate.wait_for_a_run()
        with pytest.raises(QueueTimeout, match="waited in the queue for longer than it may"):
            await ask(batcher, 2)
        gate.opened.set()
        assert await first == 2
    assert gate.runs == [[1]]


async def test_a_full_queue_refuses_at_once() -> None:
    gate = Gate()
    gate.opened.clear()
    policy = QueuePolicySettings(max_queue_size=2)
    settings = TritonPolicySettings(
        max_batch_size=8, preferred_batch_sizes=(8,), default_queue_policy=policy
    )
    async with started(gate, settings) as batcher:
        first = ask(batcher, 1)
        await gate.wait_for_a_run()
        waiting = [ask(batcher, value) for value in (2, 3)]
        await settle()
        with pytest.raises(Overloaded, match="2 requests wait for the model, which is its limit"):
            await ask(batcher, 4)
        gate.opened.set()
        assert await asyncio.gather(first, *waiting) == [2, 4, 6]


async def test_a_delay_ends_without_another_arrival() -> None:
    gate = Gate()
    settings = TritonPolicySettings(
        max_batch_size=8, preferred_batch_sizes=(8,), max_queue_delay_us=3_000
    )
    async with started(gate, settings) as batcher:
        assert list(await asyncio.gather(ask(batcher, 1), ask(batcher, 2))) == [2, 4]
    assert gate.runs == [[1, 2]]


async def test_answers_keep_the_order_of_arrival_where_that_is_asked_for() -> None:
    settings = TritonPolicySettings(max_batch_size=8, preserve_ordering=True)
    slow, fast = Gate(), Gate()
    slow.opened.clear()
    gates = iter([slow, fast])
    mine = threading.local()

    def run(inputs: Arrays, outputs: Sequence[str], stop: RunStop) -> list[np.ndarray]:
        if not hasattr(mine, "gate"):
            mine.gate = next(gates)
        gate: Gate = mine.gate
        return gate.run(inputs, outputs, stop)

    both = Gate()
    both.run = run  # type: ignore[method-assign]
    order: list[float] = []
    async with started(both, settings, instances=2) as batcher:
        asked = []
        for value, gate in ((1, slow), (2, fast)):
            asked.append(ask(batcher, value))
            asked[-1].add_done_callback(lambda task: order.append(task.result()))
            await gate.wait_for_a_run()
        asked.append(ask(batcher, 3))
        await fast.wait_for_a_run()
        passed_over = ask(batcher, 4)
        await fast.wait_for_a_run()
        passed_over.cancel()
        await settle()
        assert not any(task.done() for task in asked)
        slow.opened.set()
        assert await asyncio.gather(*asked) == [2, 4, 6]
        await settle()
    assert order == [2, 4]


async def test_a_cancelled_first_request_does_not_hold_back_the_others() -> None:
    settings = TritonPolicySettings(max_batch_size=1, preserve_ordering=True)
    gate = Gate()
    gate.opened.clear()
    async with started(gate, settings, instances=2) as batcher:
        first = ask(batcher, 1)
        await gate.wait_for_a_run()
        second = ask(batcher, POISON)
        await gate.wait_for_a_run()
        first.cancel()
        gate.opened.set()
        with pytest.raises(ValueError, match="poison"):
            await second
        assert first.cancelled()


async def test_closing_refuses_what_waits_and_answers_what_runs() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        running = ask(batcher, 1)
        await gate.wait_for_a_run()
        waiting = ask(batcher, 2)
        await settle()
        closing = asyncio.create_task(batcher.close(PATIENCE_S))
        with pytest.raises(Draining):
            await waiting
        gate.opened.set()
        assert await closing
        assert await running == 2
        with pytest.raises(Draining):
            await ask(batcher, 3)


async def test_closing_gives_up_on_a_run_that_does_not_end() -> None:
    gate = Gate()
    gate.opened.clear()
    async with started(gate) as batcher:
        running = ask(batcher, 1)
        await gate.wait_for_a_run()
        assert not await batcher.close(0.01)
        with pytest.raises(Draining):
            await running


async def test_runs_are_counted_with_their_rows() -> None:
    gate = Gate()
    counted: list[tuple[int, bool]] = []

    def count(rows: int, *times: int) -> None:
        counted.append((rows, all(time_ns >= 0 for time_ns in times)))

    async with started(gate, on_run=count) as batcher:
        await ask(batcher, 1, rows=3)
        with pytest.raises(ValueError, match="poison"):
            await ask(batcher, POISON)
    assert counted == [(3, True)], "a run that fails is not one"

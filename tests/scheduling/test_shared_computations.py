"""Identical sequences are computed once; each caller comes and goes as it likes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.scheduling.steered_encoder import (
    Gate,
    TextBatcher,
    answers,
    encoding,
    ids,
    queued_behind_a_run,
)
from vecserve_server.errors import DeadlineExceeded, QueueTimeout


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def batcher(gate: Gate) -> AsyncIterator[TextBatcher]:
    async with encoding(gate) as started:
        yield started


async def test_identical_sequences_are_computed_once(batcher: TextBatcher, gate: Gate) -> None:
    tasks = await queued_behind_a_run(batcher, gate, [1, 2, 1], [2], [1, 3])
    assert await answers(tasks) == [[0], [1, 2, 1], [2], [1, 3]]
    assert gate.runs == [[0], [1, 2, 3]]


async def test_a_sequence_joins_one_that_is_running(batcher: TextBatcher, gate: Gate) -> None:
    gate.opened.clear()
    running = asyncio.create_task(batcher.submit(ids(5)))
    await gate.wait_for_a_run()
    joining = asyncio.create_task(
        batcher.submit(ids(5), start_by_ns=time.perf_counter_ns() + 10**9)
    )
    await asyncio.sleep(0)
    running.cancel()
    gate.opened.set()
    assert await answers([joining]) == [[5]]
    assert gate.runs == [[5]]
    assert running.cancelled()


async def test_who_leaves_does_not_take_the_work_along_unless_nobody_is_left(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(0)))
    await gate.wait_for_a_run()
    tasks = [asyncio.create_task(batcher.submit(ids(n))) for n in (1, 1, 2, 2)]
    await asyncio.sleep(0)
    for leaving in (tasks[0], tasks[2], tasks[3]):
        leaving.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    assert await answers([busy, tasks[1]]) == [[0], [1]]
    assert gate.runs == [[0], [1]]


async def test_a_shared_computation_outlives_the_deadline_of_the_first_asker(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(0)))
    await gate.wait_for_a_run()
    soon_ns = time.perf_counter_ns() + 20_000_000
    timed_out = asyncio.create_task(batcher.submit(ids(1), start_by_ns=soon_ns))
    patient = asyncio.create_task(batcher.submit(ids(1)))
    with pytest.raises(QueueTimeout, match="waited in the queue for longer than it may"):
        await timed_out
    gate.opened.set()
    assert await answers([busy, patient]) == [[0], [1]]
    assert gate.runs == [[0], [1]]


async def test_a_sequence_in_a_hurry_waits_for_no_patient_twin(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(0)))
    await gate.wait_for_a_run()
    patient = asyncio.create_task(batcher.submit(ids(1)))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(ids(1), deadline_ns=time.perf_counter_ns() + 5_000_000)
    gate.opened.set()
    assert await answers([busy, patient]) == [[0], [1]]


async def test_the_early_deadline_of_one_who_left_harms_nobody(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(0)))
    await gate.wait_for_a_run()
    soon_ns = time.perf_counter_ns() + 20_000_000
    leaving = asyncio.create_task(batcher.submit(ids(1), start_by_ns=soon_ns))
    patient = asyncio.create_task(batcher.submit(ids(1)))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(QueueTimeout):  # it waits for as long as the one who left would have
        await batcher.submit(ids(2), start_by_ns=soon_ns + 1_000_000)
    gate.opened.set()
    assert await answers([busy, patient]) == [[0], [1]]

"""A run that fails: the sequence at fault fails alone, and a dead instance is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.scheduling.steered_encoder import (
    PATIENCE_S,
    Gate,
    TextBatcher,
    answers,
    encoding,
    ids,
    queued_behind_a_run,
)
from vecserve_server.domain.vectors import Encodings
from vecserve_server.errors import EngineError
from vecserve_server.scheduling.batcher import QueueBounds
from vecserve_server.scheduling.computation import abandoned
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def batcher(gate: Gate) -> AsyncIterator[TextBatcher]:
    async with encoding(gate) as started:
        yield started


async def test_a_poisoned_call_fails_alone_after_a_bisection(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.poison = {7: ValueError("poison")}
    calls = [[number] for number in range(1, 33)]
    tasks = await queued_behind_a_run(batcher, gate, *calls)
    wanted: list[list[int] | str] = [[0], *calls]
    wanted[7] = "poison"
    assert await answers(tasks) == wanted
    assert gate.runs[1] == list(range(1, 33))
    assert len(gate.runs) <= 2 + 2 * 5, "one run more for each half of a half"


async def test_a_poisoned_call_that_was_given_up_harms_nobody(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.poison = {1: ValueError("poison")}
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(0)))
    await gate.wait_for_a_run()
    given_up, healthy = (asyncio.create_task(batcher.submit(ids(n))) for n in (1, 2))
    await asyncio.sleep(0)
    gate.opened.set()
    await busy
    given_up.cancel()
    assert await answers([healthy]) == [[2]]


async def test_a_batch_of_one_call_is_not_tried_again(batcher: TextBatcher, gate: Gate) -> None:
    gate.poison = {3: ValueError("poison")}
    tasks = await queued_behind_a_run(batcher, gate, [1, 2, 3, 4])
    assert await answers(tasks) == [[0], "poison"]
    assert gate.runs == [[0], [1, 2, 3, 4]]


async def test_a_dead_instance_is_replaced_and_its_batch_is_run_again(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.poison = {2: SystemExit("killed")}
    tasks = await queued_behind_a_run(batcher, gate, [1], [2], [3])
    assert await answers(tasks) == [[0], [1], "a model instance has died", [3]]
    assert (await batcher.submit(ids(9))).encodings.vectors[0, 0] == 9


async def test_an_encoder_that_loses_rows_fails_its_callers() -> None:
    nothing = Encodings(np.empty((0, 2), np.float32), np.empty(0, np.float32))
    lossy = TextBatcher(
        runs=[lambda _: nothing],
        policy=EncoderPolicy(
            run_tokens=8, min_share_tokens=8, look_ahead_entries=8, abandoned=abandoned
        ),
        bounds=QueueBounds(entries=8, tokens=10_000),
    )
    with pytest.raises(EngineError, match="0 vectors for 1"):
        await lossy.submit(ids(1))
    assert await lossy.close(PATIENCE_S)

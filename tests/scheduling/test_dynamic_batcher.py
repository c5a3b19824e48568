"""The batcher's futures, threads and bounds, with an encoder that the test steers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from tests.scheduling.steered_encoder import (
    PATIENCE_S,
    Gate,
    Sequences,
    TextBatcher,
    answers,
    encoding,
    ids,
    make_batcher,
)
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.errors import DeadlineExceeded, Draining, Overloaded, QueueTimeout
from vecserve_server.scheduling.computation import abandoned
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def batcher(gate: Gate) -> AsyncIterator[TextBatcher]:
    async with encoding(gate) as started:
        yield started


@pytest.fixture
async def patient_batcher(gate: Gate) -> AsyncIterator[TextBatcher]:
    """Waits for company for 2 ms, and refuses what has waited for 50."""
    settings = TritonPolicySettings(
        max_batch_size=8,
        preferred_batch_sizes=(8,),
        max_queue_delay_us=2000,
        default_queue_policy=QueuePolicySettings(default_timeout_us=50_000),
    )
    made = make_batcher(gate, TritonPolicy(settings=settings, abandoned=abandoned))
    yield made
    gate.opened.set()
    await made.close(PATIENCE_S)


async def test_each_caller_gets_its_own_rows(batcher: TextBatcher) -> None:
    rng = np.random.default_rng(0)
    calls = [rng.integers(1, 10_000, size=rng.integers(1, 5)).tolist() for _ in range(25)]
    answers = await asyncio.gather(*(batcher.submit(ids(*call)) for call in calls))
    assert [a.encodings.vectors[:, 0].tolist() for a in answers] == calls
    for answer in answers:
        vectors, norms = answer.encodings
        assert norms.tolist() == (vectors[:, 0] * 10).tolist()


async def test_a_batch_forms_while_the_instance_is_busy(batcher: TextBatcher, gate: Gate) -> None:
    gate.opened.clear()
    first = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    others = [asyncio.create_task(batcher.submit(ids(n))) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, *others)
    assert gate.runs == [[1], [2, 3, 4]]


async def test_a_cancelled_caller_costs_no_run_and_hurts_no_neighbour(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    first = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    cancelled = asyncio.create_task(batcher.submit(ids(2)))
    neighbour = asyncio.create_task(batcher.submit(ids(3)))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    gate.opened.set()
    await first
    assert (await neighbour).encodings.vectors[0, 0] == 3
    assert gate.runs == [[1], [3]]


async def test_a_caller_cancelled_during_its_run_hurts_no_neighbour(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    leaving, staying = (asyncio.create_task(batcher.submit(ids(n))) for n in (2, 3))
    await asyncio.sleep(0)
    gate.opened.set()
    await busy
    leaving.cancel()
    assert (await staying).encodings.vectors[0, 0] == 3
    assert (await batcher.submit(ids(9))).encodings.vectors[0, 0] == 9


async def test_work_past_its_deadline_fails_and_is_not_run(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    deadline_ns = time.perf_counter_ns() + 20_000_000
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(ids(2), deadline_ns=deadline_ns)
    gate.opened.set()
    await busy
    await batcher.submit(ids(3))
    assert gate.runs == [[1], [3]]


async def test_a_policy_that_waits_for_company_is_asked_again(
    patient_batcher: TextBatcher, gate: Gate
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await patient_batcher.submit(ids(1, 2))
    assert gate.runs == [[1, 2]]


async def test_a_policy_s_timeout_takes_effect_although_no_instance_is_free(
    patient_batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(patient_batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(QueueTimeout):
            await patient_batcher.submit(ids(2))
    gate.opened.set()
    await busy
    assert gate.runs == [[1]]


async def test_work_that_comes_too_late_is_never_queued(batcher: TextBatcher, gate: Gate) -> None:
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(ids(1), deadline_ns=time.perf_counter_ns())
    assert gate.runs == []


async def test_a_failing_run_fails_its_callers_and_nobody_else(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.error = RuntimeError("the engine is unwell")
    with pytest.raises(RuntimeError, match="unwell"):
        await batcher.submit(ids(1))
    gate.error = None
    assert (await batcher.submit(ids(2))).encodings.vectors[0, 0] == 2


async def test_a_full_queue_answers_at_once(batcher: TextBatcher, gate: Gate) -> None:
    gate.opened.clear()
    busy = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    waiting = asyncio.create_task(batcher.submit(ids(*range(100, 200))))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="limit of 100"):
        await batcher.submit(ids(2))
    gate.opened.set()
    await asyncio.gather(busy, waiting)


async def test_a_queue_is_full_by_its_tokens_too(batcher: TextBatcher, gate: Gate) -> None:
    long = [np.full(250, 7, np.int64)]
    gate.opened.clear()
    tasks = [asyncio.create_task(batcher.submit(ids(1)))]
    await gate.wait_for_a_run()
    tasks.append(asyncio.create_task(batcher.submit([np.full(500, 8, np.int64)])))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="500 tokens wait and 250 more exceed the limit of 400"):
        await batcher.submit(long)
    # The rest of a call that was let in, whose own first part it is that waits.
    tasks.append(asyncio.create_task(batcher.submit(long, admitted=True)))
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(*tasks)


async def test_who_cannot_be_answered_in_time_is_refused_at_once(gate: Gate) -> None:
    run_ns = 10_000_000
    now_ns = 0

    def slow(sequences: Sequence[TokenIds]) -> Encodings:
        nonlocal now_ns
        now_ns += run_ns
        return gate.run(sequences)

    policy: EncoderPolicy[Sequences] = EncoderPolicy(
        run_tokens=3, min_share_tokens=3, look_ahead_entries=64, abandoned=abandoned
    )
    batcher = make_batcher(gate, policy, run=slow, clock_ns=lambda: now_ns)
    await asyncio.gather(*(batcher.submit(ids(number)) for number in range(20)))
    gate.opened.clear()
    within_ns = now_ns + 10 * run_ns
    waiting = [(number, 1) for number in range(100, 111)] + [(111, 3)]
    tasks = [
        asyncio.create_task(batcher.submit(ids(number), priority=priority))
        for number, priority in waiting
    ]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="30 tokens wait, which takes longer than the request may"):
        await batcher.submit(ids(200), deadline_ns=within_ns)
    with pytest.raises(Overloaded):
        batcher.admit(1, tokens=1, start_by_ns=within_ns)
    batcher.admit(1, tokens=3, deadline_ns=now_ns + 20 * run_ns)
    batcher.admit(1, tokens=3)
    # Goes before all that has its priority and no deadline.
    batcher.admit(1, tokens=3, deadline_ns=within_ns, priority=1)
    gate.opened.set()
    await asyncio.gather(*tasks)
    # Nothing waits any more, so even this is tried.
    batcher.admit(1, tokens=1, deadline_ns=now_ns + 1)
    assert await batcher.close(PATIENCE_S)


async def test_a_closed_batcher_fails_what_waits_and_takes_no_more(
    batcher: TextBatcher, gate: Gate
) -> None:
    gate.opened.clear()
    running = asyncio.create_task(batcher.submit(ids(1)))
    await gate.wait_for_a_run()
    waiting = asyncio.create_task(batcher.submit(ids(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close(PATIENCE_S))
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        await batcher.submit(ids(3))
    gate.opened.set()
    assert await closing
    assert (await running).encodings.vectors[0, 0] == 1


async def test_a_higher_priority_goes_first(gate: Gate) -> None:
    async with encoding(gate, run_tokens=3) as batcher:
        gate.opened.clear()
        tasks = [asyncio.create_task(batcher.submit(ids(0)))]
        await gate.wait_for_a_run()
        for number, priority in ((1, 3), (2, 0), (3, 1)):
            tasks.append(asyncio.create_task(batcher.submit(ids(number), priority=priority)))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await answers(tasks) == [[0], [1], [2], [3]]
    assert gate.runs == [[0], [3], [2], [1]]


async def test_no_sequences_are_answered_at_once(batcher: TextBatcher) -> None:
    assert (await batcher.submit([])).encodings.vectors.shape == (0, 2)

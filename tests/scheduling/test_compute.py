"""What every `Compute` does, whatever its payload: sequences for an encoder, or tensors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import pytest

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.errors import DeadlineExceeded, Draining, QueueTimeout, VecserveError
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.scheduling import computation, tensor_payload
from vecserve_server.scheduling.batcher import DynamicBatcher, QueueBounds
from vecserve_server.scheduling.compute import UNHURRIED, Compute
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
)
from vecserve_server.scheduling.run import RunStop
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.tensor_run import Arrays, Part

PATIENCE_S = 10.0
POISON, MURDER = 666, 667
W = TypeVar("W")
R = TypeVar("R")


class Gate:
    """Computes while it is open; some numbers break it."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.entered = threading.Semaphore(0)
        self.one_at_a_time = False
        self.runs: list[list[int]] = []

    def run(self, numbers: list[int]) -> None:
        self.runs.append(numbers)
        self.entered.release()
        assert self.opened.wait(PATIENCE_S)
        if self.one_at_a_time:
            self.opened.clear()
        if POISON in numbers:
            raise ValueError("poison")
        if MURDER in numbers:
            raise SystemExit("murder")

    async def wait_for_a_run(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=PATIENCE_S)


class Model(Generic[W, R]):
    """A `Compute` that is asked for numbers and answers the same ones."""

    def __init__(
        self,
        gate: Gate,
        compute: Compute[W, R],
        *,
        put: Callable[[int], W],
        got: Callable[[R], int],
    ) -> None:
        self.gate = gate
        self.compute = compute
        self._put = put
        self._got = got

    def ask(self, number: int, urgency: Urgency = UNHURRIED) -> asyncio.Task[tuple[int, Timings]]:
        async def asked() -> tuple[int, Timings]:
            computed = await self.compute.submit(self._put(number), urgency)
            return self._got(computed.result), computed.timings

        return asyncio.create_task(asked())

    async def behind_a_run(self, *numbers: int) -> list[asyncio.Task[tuple[int, Timings]]]:
        """Ask for 0, and while that runs for the others."""
        self.gate.opened.clear()
        asked = [self.ask(0)]
        await self.gate.wait_for_a_run()
        asked += [self.ask(number) for number in numbers]
        await asyncio.sleep(0)
        return asked


def encoder() -> Model[Sequence[TokenIds], Encodings]:
    gate = Gate()

    def run(sequences: Sequence[TokenIds]) -> Encodings:
        gate.run([int(ids[0]) for ids in sequences])
        vectors = np.array([ids[:1] for ids in sequences], np.float32)
        return Encodings(vectors, vectors[:, 0])

    compute: DynamicBatcher[TokenIds] = DynamicBatcher(
        name="m",
        dim=1,
        runs=[run],
        computations=computation.Computations(key=np.ndarray.tobytes, cost=len),
        policy=EncoderPolicy(
            run_tokens=64,
            min_share_tokens=64,
            look_ahead_entries=8,
            abandoned=computation.abandoned,
        ),
        bounds=QueueBounds(entries=100, tokens=100),
        clock_ns=time.perf_counter_ns,
        metrics=make_metrics(),
        on_run=lambda *_: None,
    )
    return Model(
        gate,
        compute,
        put=lambda number: [np.array([number], np.int64)],
        got=lambda encodings: int(encodings.vectors[0, 0]),
    )


def tensors() -> Model[Part, Arrays]:
    gate = Gate()

    def run(inputs: Arrays, outputs: Sequence[str], _stop: RunStop) -> list[np.ndarray]:
        gate.run(inputs["x"][:, 0].tolist())
        return [inputs["x"] for _ in outputs]

    settings = TritonPolicySettings(
        max_batch_size=8,
        preferred_batch_sizes=(8,),
        default_queue_policy=QueuePolicySettings(
            default_timeout_us=60_000_000, allow_timeout_override=True
        ),
    )
    compute = TensorBatcher(
        name="m",
        runs=[run],
        policy=TritonPolicy(settings=settings, abandoned=tensor_payload.abandoned),
        clock_ns=time.perf_counter_ns,
        metrics=make_metrics(),
        on_run=lambda *_: None,
    )
    return Model(
        gate,
        compute,
        put=lambda number: Part(inputs={"x": np.array([[number]])}, outputs=("y",), rows=1),
        got=lambda outputs: int(outputs["y"][0, 0]),
    )


Either: TypeAlias = Model[Sequence[TokenIds], Encodings] | Model[Part, Arrays]


@pytest.fixture(params=[encoder, tensors], ids=lambda make: str(make.__name__))
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Either]:
    made: Either = request.param()
    yield made
    made.gate.opened.set()
    assert await made.compute.close(PATIENCE_S)


async def numbers(asked: Sequence[asyncio.Task[tuple[int, Timings]]]) -> list[int]:
    async with asyncio.timeout(PATIENCE_S):
        return [number for number, _ in await asyncio.gather(*asked)]


def within(*, ms: float) -> int:
    return time.perf_counter_ns() + int(ms * 1e6)


async def test_what_waits_runs_together_when_an_instance_is_free(model: Either) -> None:
    assert model.compute.instance_count == 1
    asked = await model.behind_a_run(1, 2, 3)
    assert model.compute.queued == 3
    model.gate.opened.set()
    assert await numbers(asked) == [0, 1, 2, 3]
    assert model.gate.runs == [[0], [1, 2, 3]]
    assert model.compute.queued == 0


async def test_the_time_in_the_queue_and_in_the_run_are_told(model: Either) -> None:
    asked = await model.behind_a_run(1)
    since_ns = time.perf_counter_ns()
    await asyncio.sleep(0)
    held_ns = time.perf_counter_ns() - since_ns
    model.gate.opened.set()
    (_, first), (_, second) = await asyncio.gather(*asked)
    assert first.compute_infer_ns >= held_ns
    assert second.queue_ns >= held_ns


async def test_who_is_cancelled_costs_no_run_and_hurts_nobody(model: Either) -> None:
    busy, leaving, staying = await model.behind_a_run(1, 2)
    leaving.cancel()
    await asyncio.wait([leaving])
    model.gate.opened.set()
    assert await numbers([busy, staying]) == [0, 2]
    assert model.gate.runs == [[0], [2]]


async def test_what_passes_its_deadline_in_the_queue_is_not_run(model: Either) -> None:
    busy, patient = await model.behind_a_run(1)
    with pytest.raises(DeadlineExceeded):
        await model.ask(2, Urgency(deadline_ns=within(ms=2)))
    model.gate.opened.set()
    assert await numbers([busy, patient]) == [0, 1]
    assert model.gate.runs == [[0], [1]]


async def test_a_caller_is_told_at_its_deadline_although_its_run_goes_on(model: Either) -> None:
    model.gate.opened.clear()
    with pytest.raises(DeadlineExceeded):
        await model.ask(1, Urgency(deadline_ns=within(ms=20)))
    assert model.gate.runs == [[1]]
    model.gate.opened.set()
    assert await numbers([model.ask(2)]) == [2]


async def test_what_cannot_begin_in_time_is_refused_while_the_instance_is_busy(
    model: Either,
) -> None:
    busy, patient = await model.behind_a_run(1)
    with pytest.raises(QueueTimeout, match="waited in the queue for longer than it may"):
        await model.ask(2, Urgency(start_by_ns=within(ms=2)))
    model.gate.opened.set()
    assert await numbers([busy, patient]) == [0, 1]


async def test_what_comes_after_its_deadline_is_let_in_by_no_door(model: Either) -> None:
    late = Urgency(deadline_ns=within(ms=0))
    with pytest.raises(DeadlineExceeded):
        model.compute.admit(1, cost=1, urgency=late)
    with pytest.raises(DeadlineExceeded):
        await model.ask(1, late)
    assert model.gate.runs == []


async def test_a_failing_batch_is_run_again_in_halves(model: Either) -> None:
    busy, *mates = await model.behind_a_run(1, POISON, 2, 3)
    model.gate.opened.set()
    with pytest.raises(ValueError, match="poison"):
        await mates.pop(1)
    assert await numbers([busy, *mates]) == [0, 1, 2, 3]
    assert model.gate.runs == [[0], [1, POISON, 2, 3], [1, POISON], [2, 3], [1], [POISON]]


async def test_an_instance_that_dies_is_replaced_and_its_batch_is_run_again(
    model: Either,
) -> None:
    busy, *mates = await model.behind_a_run(1, MURDER, 2)
    model.gate.opened.set()
    with pytest.raises(VecserveError, match="a model instance has died"):
        await mates.pop(1)
    assert await numbers([busy, *mates, model.ask(5)]) == [0, 1, 2, 5]


async def test_closing_fails_what_waits_and_answers_what_runs(model: Either) -> None:
    running, waiting = await model.behind_a_run(1)
    closing = asyncio.create_task(model.compute.close(PATIENCE_S))
    with pytest.raises(Draining):
        await waiting
    with pytest.raises(Draining):
        model.compute.admit(1, cost=1)
    with pytest.raises(Draining):
        await model.ask(2)
    model.gate.opened.set()
    assert await closing
    assert await numbers([running]) == [0]
    assert model.gate.runs == [[0]]


async def test_closing_waits_for_no_run_that_does_not_end(model: Either) -> None:
    [running] = await model.behind_a_run()
    assert not await model.compute.close(0.01)
    with pytest.raises(Draining):
        await running


async def test_a_batch_that_fails_while_it_is_closed_is_not_run_again(model: Either) -> None:
    busy, *mates = await model.behind_a_run(POISON, 1)
    model.gate.one_at_a_time = True
    model.gate.opened.set()
    await busy
    await model.gate.wait_for_a_run()
    closing = asyncio.create_task(model.compute.close(PATIENCE_S))
    await asyncio.sleep(0)
    model.gate.opened.set()
    for mate in mates:
        with pytest.raises(Draining):
            await mate
    assert await closing
    assert model.gate.runs == [[0], [POISON, 1]]

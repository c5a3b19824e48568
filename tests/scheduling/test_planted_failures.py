"""An exception anywhere between the queue and the answer: every call hears of it, none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.scheduling import test_tensor_batcher as tensor
from tests.scheduling.steered_encoder import PATIENCE_S, Gate, encoding, ids
from vecserve_server.domain.shapes import run_shapes
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.cost_model import UNMEASURED
from vecserve_server.encoding.planning import RunPlanner
from vecserve_server.errors import EngineError, is_for_caller
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.batcher import DynamicBatcher
from vecserve_server.scheduling.computation import Computation
from vecserve_server.scheduling.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.instance_pool import InstancePool
from vecserve_server.scheduling.pace import Pace
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.triton_policy import TritonPolicy
from vecserve_server.scheduling.triton_settings import TritonPolicySettings


class Planted:
    """Stands in for a method: pops what the method pops, if it does, and raises, `times` times."""

    def __init__(self, method: Callable[..., Any], *, after: bool, times: int = 1) -> None:
        self.method = method
        self.after = after
        self.left = times

    def __get__(self, instance: object, kind: type) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.left:
                return self.method(instance, *args, **kwargs)
            self.left -= 1
            if self.after:
                self.method(instance, *args, **kwargs)
            raise RuntimeError("planted")

        return call


def plant(patch: pytest.MonkeyPatch, owner: type, name: str, *, after: bool) -> Planted:
    planted = Planted(getattr(owner, name), after=after)
    patch.setattr(owner, name, planted)
    return planted


async def outcomes(calls: Sequence[asyncio.Task[Any]]) -> list[object]:
    async with asyncio.timeout(PATIENCE_S):
        return list(await asyncio.gather(*calls, return_exceptions=True))


def assert_answered_or_told(found: Sequence[object]) -> None:
    """Every error is one that the log explains under an id."""
    for each in found:
        if isinstance(each, BaseException):
            assert isinstance(each, EngineError)
            assert not is_for_caller(each)


TEXT_PLACES = [
    (EncoderPolicy, "form", False),
    (EncoderPolicy, "form", True),
    (EncoderPolicy, "_remove", True),
    (EncoderPolicy, "wake_ns", False),
    (InstancePool, "start", False),
    (InstancePool, "available", False),
    (Pace, "ran", False),
    (ModelStatistics, "executed", False),
    (Computation, "fill", False),
    (Computation, "fill", True),
    (DynamicBatcher, "_start", False),
    (DynamicBatcher, "_enqueue", False),
]


@pytest.mark.parametrize(("owner", "name", "after"), TEXT_PLACES)
async def test_text_calls_survive_an_exception(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool
) -> None:
    gate = Gate()
    async with encoding(gate, run_tokens=12) as batcher:
        gate.opened.clear()
        calls = [asyncio.create_task(batcher.submit(ids(0)))]
        await gate.wait_for_a_run()
        calls += [asyncio.create_task(batcher.submit(ids(n, n + 100))) for n in range(1, 20)]
        await asyncio.sleep(0)
        planted = plant(monkeypatch, owner, name, after=after)
        calls.append(asyncio.create_task(batcher.submit(ids(50))))
        await asyncio.sleep(0)
        gate.opened.set()
        found = await outcomes(calls)
        assert planted.left == 0
        if name != "_enqueue":  # the call that meets it gets it as it is
            assert_answered_or_told(found)
        assert batcher.queued == 0
        answer = await batcher.submit(ids(7))
        assert answer.encodings.vectors[:, 0].tolist() == [7]
        assert not batcher._tickets


TENSOR_PLACES = [
    (TritonPolicy, "form", False),
    (TritonPolicy, "form", True),
    (TritonPolicy, "_choose", False),
    (TritonPolicy, "_remove", True),
    (TritonPolicy, "wake_ns", False),
    (InstancePool, "start", False),
    (TensorBatcher, "_start", False),
    (TensorBatcher, "_account", False),
    (TensorBatcher, "_hand_out", True),
]


@pytest.mark.parametrize(("owner", "name", "after"), TENSOR_PLACES)
@pytest.mark.parametrize("ordered", [False, True])
async def test_tensor_requests_survive_an_exception(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, after: bool, ordered: bool
) -> None:
    gate = tensor.Gate()
    settings = TritonPolicySettings(
        max_batch_size=4, preferred_batch_sizes=(4,), preserve_ordering=ordered
    )
    async with tensor.started(gate, settings) as batcher:
        gate.opened.clear()
        calls = [tensor.ask(batcher, 0)]
        await gate.wait_for_a_run()
        calls += [tensor.ask(batcher, value) for value in range(1, 20)]
        await tensor.settle()
        planted = plant(monkeypatch, owner, name, after=after)
        gate.opened.set()
        found = await outcomes(calls)
        assert planted.left == 0
        assert_answered_or_told(found)
        assert batcher.queued == 0
        assert await tensor.ask(batcher, 21) == 42
        assert not batcher._requests


@pytest.mark.parametrize("choice", [ValueError("no plan"), [99], [], [0, 0]])
async def test_a_choice_that_cannot_be_made_loses_nothing(choice: Exception | list[int]) -> None:
    def choose(lengths: Sequence[int]) -> Sequence[int]:
        if isinstance(choice, Exception):
            raise choice
        return choice

    gate = Gate()
    async with encoding(gate, run_tokens=6, choose=choose) as batcher:
        gate.opened.clear()
        calls = [asyncio.create_task(batcher.submit(ids(n))) for n in range(40)]
        await gate.wait_for_a_run()
        gate.opened.set()
        found = await outcomes(calls)
        assert [each.encodings.vectors[0, 0] for each in found] == list(range(40))  # type: ignore[attr-defined]
        assert batcher.queued == 0


async def test_vectors_of_another_size_fail_their_calls_alone() -> None:
    gate = Gate()
    async with encoding(gate) as batcher:
        run = gate.run

        def wrong(sequences: Sequence[TokenIds]) -> Encodings:
            found = run(sequences)
            return Encodings(np.zeros((len(sequences), 5), np.float32), found.norms)

        batcher._pool._instances[0].run = lambda batch: wrong([c.sequence for c in batch])
        [found] = await outcomes([asyncio.create_task(batcher.submit(ids(1)))])
        assert isinstance(found, EngineError)
        assert batcher.queued == 0


async def test_texts_shorter_than_a_row_are_planned_at_any_load() -> None:
    """A model of at most 32 tokens with rows of 128, as its import configures it."""
    planner = RunPlanner(
        shapes=run_shapes(run_tokens=256, max_tokens=32), cost=UNMEASURED.predict, row_tokens=128
    )

    def choose(lengths: Sequence[int]) -> Sequence[int]:
        return next(
            members
            for run in planner.packed(lengths)
            if 0 in (members := [index for row in run.rows for index in row])
        )

    gate = Gate()
    async with encoding(gate, choose=choose) as batcher:
        gate.opened.clear()
        calls = [asyncio.create_task(batcher.submit(ids(n))) for n in range(100)]
        await gate.wait_for_a_run()
        gate.opened.set()
        found = await outcomes(calls)
    assert [each.encodings.vectors[0, 0] for each in found] == list(range(100))  # type: ignore[attr-defined]

"""Random operations on the tensor batcher: every caller gets the answer to its own question."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from vecserve_server.domain.urgency import Urgency
from vecserve_server.errors import CapacityError, DeadlineExceeded, VecserveError
from vecserve_server.observability.metrics import make_metrics
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

OPERATIONS = int(os.environ.get("VECSERVE_TEST_OPERATIONS", "2500"))
PATIENCE_S = 30.0
POISON, MURDER = -1.0, -2.0

SETTINGS = {
    "alone": TritonPolicySettings(max_batch_size=4),
    "batched": TritonPolicySettings(max_batch_size=16, preferred_batch_sizes=(4, 16)),
    "ordered": TritonPolicySettings(
        max_batch_size=16, preferred_batch_sizes=(16,), preserve_ordering=True
    ),
    "delayed": TritonPolicySettings(
        max_batch_size=16,
        preferred_batch_sizes=(16,),
        max_queue_delay_us=300,
        priority_levels=2,
        default_priority_level=2,
        default_queue_policy=QueuePolicySettings(
            default_timeout_us=20_000, allow_timeout_override=True, max_queue_size=64
        ),
    ),
}


def run(inputs: Arrays, outputs: Sequence[str], _stop: RunStop) -> list[np.ndarray]:
    x = inputs["x"]
    if POISON in x:
        raise ValueError("poison")
    if MURDER in x:
        raise SystemExit("murder")
    return [{"y": x * 2, "z": x + 1}[name] for name in outputs]


class Caller:
    """Asks one random question and judges the answer."""

    def __init__(self, batcher: TensorBatcher, dice: random.Random, number: int) -> None:
        self._batcher = batcher
        self.poison = dice.choices([0.0, POISON, MURDER], [90, 8, 2])[0]
        value = self.poison or float(number)
        self.rows, width = dice.randint(1, 4), dice.choice([1, 1, 1, 2])
        self._x = np.full((self.rows, width), value, np.float32)
        self._wanted = dice.choice([("y",), ("z",), ("y", "z")])
        self._patience_ns = dice.choice([None, None, None, 0, 200_000, 50_000_000])
        self._priority, self._timeout_us = dice.randint(0, 2), dice.choice([0, 0, 500])

    async def ask(self) -> str:
        """Return how it went; raises where the answer is wrong."""
        now_ns = time.perf_counter_ns()
        urgency = Urgency(
            priority=self._priority,
            deadline_ns=self._patience_ns and now_ns + self._patience_ns,
            start_by_ns=now_ns + self._timeout_us * 1000 if self._timeout_us else None,
        )
        try:
            answer = await self._batcher.submit(
                Part(inputs={"x": self._x}, outputs=self._wanted, rows=self.rows),
                urgency,
            )
        except DeadlineExceeded:
            assert self._patience_ns is not None
            return "expired"
        except CapacityError:
            return "refused"
        except (ValueError, VecserveError):
            assert self.poison, "a healthy request failed"
            return "failed"
        assert not self.poison
        assert list(answer.result) == list(self._wanted)
        expected = {"y": self._x * 2, "z": self._x + 1}
        for name, array in answer.result.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)
        return "answered"


def start(settings: TritonPolicySettings) -> TensorBatcher:
    policy: BatchPolicy[Waiting] = TritonPolicy(settings=settings, abandoned=abandoned)
    return TensorBatcher(
        name="chaos",
        runs=[run, run],
        policy=policy,
        preserve_ordering=settings.preserve_ordering,
        clock_ns=time.perf_counter_ns,
        metrics=make_metrics(),
        on_run=lambda *_: None,
    )


def alive() -> dict[int, object]:
    """Return what waits or waited and is in memory, by identity; other tests may leave some."""
    gc.collect()
    return {id(each): each for each in gc.get_objects() if isinstance(each, Waiting)}


@pytest.mark.parametrize("kind", SETTINGS)
async def test_no_operation_leaves_a_hung_or_a_wrong_answer(kind: str) -> None:
    dice = random.Random(kind)
    threads = set(threading.enumerate())
    others = alive()
    batcher = start(SETTINGS[kind])
    tasks: list[asyncio.Task[str]] = []
    closings = []
    for number in range(1, OPERATIONS + 1):
        match dice.choices(["ask", "cancel", "pause", "unload"], [80, 10, 10, 0.2])[0]:
            case "ask":
                tasks.append(asyncio.create_task(Caller(batcher, dice, number).ask()))
            case "cancel" if tasks:
                dice.choice(tasks[-8:]).cancel()
            case "unload":
                closings.append(asyncio.create_task(batcher.close(PATIENCE_S)))
                batcher = start(SETTINGS[kind])
            case _:
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        closings.append(asyncio.create_task(batcher.close(PATIENCE_S)))
        assert all(await asyncio.gather(*closings))
    wrong = [each for each in outcomes if isinstance(each, Exception)]
    assert wrong == []
    counts = Counter(each if isinstance(each, str) else "cancelled" for each in outcomes)
    assert {"answered", "cancelled", "expired", "failed"} <= counts.keys()
    assert counts["answered"] > len(tasks) / 20, "on a busy machine many expire"
    assert batcher.queued == 0
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(threading.enumerate()) <= threads
    assert len(asyncio.all_tasks()) == 1
    del tasks, outcomes, closings
    assert alive().keys() <= others.keys()

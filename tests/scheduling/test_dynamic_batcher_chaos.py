"""Random operations on the text encoders' batcher: every caller gets its own vectors."""

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

from tests.scheduling.steered_encoder import Sequences, TextBatcher
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.errors import CapacityError, DeadlineExceeded, QueueTimeout, VecserveError
from vecserve_server.scheduling.batcher import QueueBounds
from vecserve_server.scheduling.computation import Computation, Ticket, abandoned
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy

OPERATIONS = int(os.environ.get("VECSERVE_TEST_OPERATIONS", "5000"))
PATIENCE_S = 60.0
POISON, MURDER = 999_991, 999_992
TEXTS = 40
"""So few that many calls ask for the same at the same time."""


def embed(ids: TokenIds) -> list[float]:
    """Make a vector that tells from which token ids it came."""
    return [float(ids[0]), float(len(ids)), float(ids.sum())]


def run(sequences: Sequence[TokenIds]) -> Encodings:
    first = {int(ids[0]) for ids in sequences}
    if POISON in first:
        raise ValueError("poison")
    if MURDER in first:
        raise SystemExit("murder")
    vectors = np.array([embed(ids) for ids in sequences], np.float32)
    return Encodings(vectors, vectors[:, 2] * 10)


class Caller:
    """Asks for the vectors of random texts and judges the answer."""

    def __init__(self, batcher: TextBatcher, dice: random.Random) -> None:
        self._batcher = batcher
        self.poison = dice.choices([0, POISON, MURDER], [94, 5, 1])[0]
        self._texts = [self._text(dice.randrange(TEXTS)) for _ in range(dice.choice([1, 1, 2, 9]))]
        if self.poison:
            self._texts[dice.randrange(len(self._texts))] = np.array([self.poison], np.int64)
        self._deadline_ms = dice.choice([None, None, None, 0, 0.2, 50])
        self._timeout_ms = dice.choice([None, None, None, 0.2, 20])
        self._priority = dice.choice([0, 0, 0, 1, 3])

    @staticmethod
    def _text(number: int) -> TokenIds:
        return np.array([number, *range(number % 17)], np.int64)

    async def ask(self) -> str:
        """Return how it went; raises where the answer is wrong."""
        now_ns = time.perf_counter_ns()
        times = [
            None if ms is None else now_ns + int(ms * 1e6)
            for ms in (self._deadline_ms, self._timeout_ms)
        ]
        try:
            answer = await self._batcher.submit(
                self._texts, priority=self._priority, deadline_ns=times[0], start_by_ns=times[1]
            )
        except DeadlineExceeded:
            assert self._deadline_ms is not None
            return "expired"
        except QueueTimeout:
            assert self._timeout_ms is not None
            return "timed out"
        except CapacityError:
            return "refused"
        except (ValueError, VecserveError):
            assert self.poison, "a healthy call failed"
            return "failed"
        assert not self.poison
        vectors = np.array([embed(ids) for ids in self._texts], np.float32)
        np.testing.assert_array_equal(answer.encodings.vectors, vectors, strict=True)
        np.testing.assert_array_equal(answer.encodings.norms, vectors[:, 2] * 10)
        assert min(answer.timings.queue_ns, answer.timings.compute_infer_ns) >= 0
        return "answered"


def start(cores: Cores, *, share_identical: bool) -> TextBatcher:
    policy: EncoderPolicy[Sequences] = EncoderPolicy(
        run_tokens=64, min_share_tokens=8, look_ahead_entries=8, abandoned=abandoned
    )
    return TextBatcher(
        dim=3,
        runs=[run, run],
        policy=policy,
        bounds=QueueBounds(entries=256, tokens=1 << 20),
        cores=cores,
        share_identical=share_identical,
    )


def alive() -> dict[int, object]:
    """Return what waits or waited and is in memory, by identity; other tests may leave some."""
    gc.collect()
    return {id(each): each for each in gc.get_objects() if isinstance(each, Computation | Ticket)}


@pytest.mark.parametrize("share_identical", [True, False])
async def test_no_operation_leaves_a_hung_or_a_wrong_answer(*, share_identical: bool) -> None:
    dice = random.Random(5)
    threads = set(threading.enumerate())
    others = alive()
    cores = Cores(count=2)
    batchers = [start(cores, share_identical=share_identical) for _ in range(2)]
    tasks: list[asyncio.Task[str]] = []
    closings = []
    for _ in range(OPERATIONS):
        match dice.choices(["ask", "cancel", "pause", "unload"], [80, 10, 10, 0.2])[0]:
            case "ask":
                caller = Caller(dice.choice(batchers), dice)
                tasks.append(asyncio.create_task(caller.ask()))
            case "cancel" if tasks:
                dice.choice(tasks[-8:]).cancel()
            case "unload":
                closings.append(asyncio.create_task(batchers.pop(0).close(PATIENCE_S)))
                batchers.append(start(cores, share_identical=share_identical))
            case _:
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
    async with asyncio.timeout(PATIENCE_S):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        closings += [asyncio.create_task(batcher.close(PATIENCE_S)) for batcher in batchers]
        assert all(await asyncio.gather(*closings))
    wrong = [each for each in outcomes if isinstance(each, Exception)]
    assert wrong == []
    counts = Counter(each if isinstance(each, str) else "cancelled" for each in outcomes)
    assert {"answered", "cancelled", "expired", "timed out", "failed"} <= counts.keys()
    assert counts["answered"] > len(tasks) / 20, "on a busy machine many expire"
    assert [batcher.queued for batcher in batchers] == [0, 0]
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(threading.enumerate()) <= threads
    assert len(asyncio.all_tasks()) == 1
    del tasks, outcomes, closings, caller
    assert alive().keys() <= others.keys()

"""The response cache: bounded, exact, and one run for one question."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_server.domain.tensors import TensorReply, TensorRequest, Tensors
from vecserve_server.domain.timings import Timings
from vecserve_server.errors import DeadlineExceeded, InvalidArgument
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.serving.response_cache import ENTRY_BYTES, CachedInference, ResponseCache

ENTRY = ENTRY_BYTES + 8
ROOM = 1 << 22


class Doubling:
    """A model that doubles its input as soon as its gate is open."""

    name, version = "double", "1"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.runs: list[Tensors] = []
        self.cancelled = 0
        self.error: Exception | None = None

    async def infer(self, request: TensorRequest) -> TensorReply:
        self.runs.append(request.inputs)
        try:
            await self._wait(request.deadline_ns)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        # A part of something larger, as batched outputs are.
        outputs = {name: np.concatenate([x, x])[: len(x)] * 2 for name, x in request.inputs.items()}
        return TensorReply(outputs=outputs, times=Timings(compute_infer_ns=7))

    async def _wait(self, deadline_ns: int | None) -> None:
        left_s = None if deadline_ns is None else (deadline_ns - time.perf_counter_ns()) / 1e9
        try:
            async with asyncio.timeout(left_s):
                await self.gate.wait()
        except TimeoutError:
            raise DeadlineExceeded("in the queue") from None


@pytest.fixture
def model() -> Doubling:
    return Doubling()


@pytest.fixture
def statistics() -> ModelStatistics:
    return ModelStatistics(wall_clock_ms=int)


@pytest.fixture
def cached(model: Doubling, statistics: ModelStatistics) -> CachedInference:
    return caching(model, statistics, ResponseCache(max_bytes=ROOM))


def caching(
    model: Doubling, statistics: ModelStatistics, cache: ResponseCache, digest: str = "d"
) -> CachedInference:
    return CachedInference(
        model.infer,
        identity=(model.name, model.version, digest),
        cache=cache,
        statistics=statistics,
        clock_ns=time.perf_counter_ns,
    )


def question(
    *values: float, priority: int = 0, deadline_s: float | None = None, outputs: Sequence[str] = ()
) -> TensorRequest:
    deadline_ns = None if deadline_s is None else time.perf_counter_ns() + int(deadline_s * 1e9)
    inputs = {"x": np.array(values)}
    return TensorRequest(inputs=inputs, priority=priority, deadline_ns=deadline_ns, outputs=outputs)


async def asking(
    cached: CachedInference, *requests: TensorRequest
) -> list[asyncio.Task[TensorReply]]:
    """Start asking; each has come as far as it can on its own."""
    tasks = [asyncio.create_task(cached.infer(request)) for request in requests]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def reply(value: int) -> TensorReply:
    return TensorReply(outputs={"y": np.array([value])}, times=Timings())


@given(
    entries=st.integers(0, 5),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8)), max_size=60),
)
def test_it_keeps_what_was_used_last_within_its_bound(
    entries: int, steps: list[tuple[bool, int]]
) -> None:
    cache = ResponseCache(max_bytes=entries * ENTRY + ENTRY // 2)
    model: OrderedDict[int, int] = OrderedDict()
    for number, (puts, key) in enumerate(steps):
        if puts:
            cache.put(bytes([key]), reply(number))
            model[key] = number
            model.move_to_end(key)
            while len(model) > entries:
                model.popitem(last=False)
        elif key in model:
            model.move_to_end(key)
        found = cache.get(bytes([key])) if not puts else None
        assert (found is None) or int(found.outputs["y"][0]) == model[key]
        assert puts or (found is not None) == (key in model)
        assert cache.size_bytes == len(cache) * ENTRY <= entries * ENTRY + ENTRY // 2
        assert len(cache) == len(model) == cache.statistics.entries


async def test_the_cache_counts_for_all_models_and_says_what_it_dropped(model: Doubling) -> None:
    cache = ResponseCache(max_bytes=ENTRY)
    cached = caching(model, ModelStatistics(wall_clock_ms=int), cache)
    for value in (1, 1, 2, 1):
        await cached.infer(question(value))
    counted = cache.statistics
    assert (counted.lookups, counted.hits, counted.misses) == (4, 1, 3)
    assert (counted.evictions, counted.entries, counted.size_bytes) == (2, 1, ENTRY)
    assert min(counted.lookup_ns, counted.insertion_ns) > 0


async def test_the_second_answer_is_the_first_and_takes_no_run(
    cached: CachedInference, model: Doubling, statistics: ModelStatistics
) -> None:
    first, second = await cached.infer(question(1, 2)), await cached.infer(question(1, 2))
    assert len(model.runs) == 1
    assert (first.outputs["x"] == [2, 4]).all()
    assert second.outputs["x"] is first.outputs["x"]
    assert not first.outputs["x"].flags.writeable
    assert first.outputs["x"].base is None
    assert (first.cache_hit, second.cache_hit) == (False, True)
    assert second.times.compute_infer_ns == 0
    assert (statistics.cache_hit.count, statistics.cache_miss.count) == (1, 1)


@given(
    first=st.lists(st.binary(max_size=3), max_size=3),
    second=st.lists(st.binary(max_size=3), max_size=3),
    width=st.sampled_from(["<f4", "<i4", "<f8"]),
)
def test_only_the_same_question_gets_the_same_answer(
    first: list[bytes], second: list[bytes], width: str
) -> None:
    """Texts that join to the same bytes, and numbers of the same bytes, are not the same."""

    async def run() -> None:
        model = Doubling()
        cached = caching(model, ModelStatistics(wall_clock_ms=int), ResponseCache(max_bytes=ROOM))
        for texts in (first, second):
            elements = np.array([*texts, None], object)[:-1]
            await cached.infer(TensorRequest(inputs={"x": elements}))
        assert len(model.runs) == len({tuple(first), tuple(second)})
        for dtype in ("<u4", width):
            await cached.infer(TensorRequest(inputs={"n": np.zeros(2, dtype)}))
        assert len(model.runs) == len({tuple(first), tuple(second)}) + 2

    asyncio.run(run())


async def test_outputs_weights_and_names_are_part_of_the_question(
    model: Doubling, statistics: ModelStatistics
) -> None:
    cache = ResponseCache(max_bytes=ROOM)
    for digest in ("a", "b"):
        cached = caching(model, statistics, cache, digest)
        for outputs in ((), ("x",), ("x", "y")):
            await cached.infer(question(1, outputs=outputs))
        await cached.infer(TensorRequest(inputs={"z": np.array([1.0])}))
    assert len(model.runs) == 8


async def test_large_inputs_are_told_apart_too(cached: CachedInference, model: Doubling) -> None:
    large = np.zeros(1 << 16)
    other = large.copy()
    other[-1] = 1
    for tensor in (large, other, large):
        await cached.infer(TensorRequest(inputs={"x": tensor}))
    assert len(model.runs) == 2


async def test_a_long_byte_string_is_hashed_in_a_thread(cached: CachedInference) -> None:
    threads: list[threading.Thread] = []

    class Text(bytes):
        def __len__(self) -> int:
            threads.append(threading.current_thread())
            return super().__len__()

    tensor = np.empty(1, object)
    tensor[0] = Text(bytes(1 << 20))
    await cached.infer(TensorRequest(inputs={"x": tensor}))
    assert threads
    assert threading.current_thread() not in threads


async def test_what_is_larger_than_the_cache_is_not_kept(
    model: Doubling, statistics: ModelStatistics
) -> None:
    cached = caching(model, statistics, ResponseCache(max_bytes=ENTRY))
    await cached.infer(question(1, 2))
    await cached.infer(question(1, 2))
    assert len(model.runs) == 2


async def test_the_same_pending_question_is_computed_once(
    cached: CachedInference, model: Doubling, statistics: ModelStatistics
) -> None:
    model.gate.clear()
    tasks = await asking(cached, *[question(1)] * 5, question(2))
    model.gate.set()
    replies = await asyncio.gather(*tasks)
    assert len(model.runs) == 2
    assert [float(r.outputs["x"][0]) for r in replies] == [2, 2, 2, 2, 2, 4]
    assert [r.cache_hit for r in replies] == [False, True, True, True, True, False]
    assert (statistics.cache_hit.count, statistics.cache_miss.count) == (4, 2)


async def test_a_cancelled_leader_fails_nobody_who_follows(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    leader, follower = await asking(cached, question(1), question(1))
    leader.cancel()
    await asyncio.wait([leader])
    assert leader.cancelled()
    model.gate.set()
    assert float((await follower).outputs["x"][0]) == 2
    assert len(model.runs) == 1


async def test_a_run_that_nobody_waits_for_is_cancelled_and_forgotten(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    tasks = await asking(cached, question(1), question(1))
    for task in tasks:
        task.cancel()
    # Comes before the run has noticed that it is cancelled.
    late = asyncio.create_task(cached.infer(question(1)))
    await asyncio.wait(tasks)
    model.gate.set()
    assert float((await late).outputs["x"][0]) == 2
    assert model.cancelled <= 1
    assert len(model.runs) <= 2


async def test_a_leader_that_is_out_of_time_takes_nobody_along(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    leader, follower = await asking(cached, question(1, deadline_s=0.02), question(1))
    with pytest.raises(DeadlineExceeded):
        await leader
    model.gate.set()
    assert float((await follower).outputs["x"][0]) == 2


async def test_a_follower_waits_no_longer_than_its_own_deadline(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    leader, follower = await asking(cached, question(1), question(1, deadline_s=0.02))
    with pytest.raises(DeadlineExceeded):
        await follower
    model.gate.set()
    assert float((await leader).outputs["x"][0]) == 2


async def test_a_more_urgent_request_does_not_wait_for_a_less_urgent_one(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    tasks = await asking(cached, question(1, priority=2), question(1, priority=1))
    assert len(model.runs) == 2
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_a_failure_is_everybody_s_and_is_not_kept(
    cached: CachedInference, model: Doubling
) -> None:
    model.gate.clear()
    model.error = InvalidArgument("x", "is wrong")
    tasks = await asking(cached, question(1), question(1))
    model.gate.set()
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(failure, InvalidArgument) for failure in failures)
    model.error = None
    assert float((await cached.infer(question(1))).outputs["x"][0]) == 2

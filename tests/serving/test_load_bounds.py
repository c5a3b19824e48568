"""What a load may take: memory, time, threads, a place among others, and the memory of its name."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tests.engines.tiny_models import endless
from tests.serving.controlled_models import (
    NAME,
    PATIENCE_S,
    Gate,
    answer,
    controlled,
    eventually,
    states,
)
from tests.serving.tiny_onnx import add_version, graph_bytes
from vecserve_server.errors import FailedPrecondition, ModelError, ModelLimit, NotFound, Overloaded
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.observability.metrics import Metrics, make_metrics
from vecserve_server.serving.load_memory import check_fits
from vecserve_server.serving.load_turns import MAX_STUCK, LoadPool, LoadTurns

WARM_UP = """{ "modelWarmup": [ { "name": "never", "inputs": { "x": {
  "dataType": "TYPE_FP32", "dims": [ 1 ], "inputDataFile": "one.bin" } } } ] }"""


def refused(metrics: Metrics, reason: str) -> float:
    return float(metrics.models.refused_loads.labels(reason=reason)._value.get())


async def test_a_warm_up_without_end_fails_its_load_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    add_version(tmp_path, "loop", 1)
    (tmp_path / "loop" / "1" / "model.onnx").write_bytes(endless().SerializeToString())
    (tmp_path / "loop" / "warmup").mkdir()
    (tmp_path / "loop" / "warmup" / "one.bin").write_bytes(b"\0\0\x80\x3f")
    metrics = make_metrics()
    async with controlled(tmp_path, max_warm_up_s=0.05, metrics=metrics) as control:
        with pytest.raises(ModelLimit, match=r'"never" took longer than models.max_warm_up_s'):
            await control.load("loop", WARM_UP)
        await control.load(NAME)
        assert await answer(control) == 1.0
    assert refused(metrics, "warm_up_time") == 1


async def test_a_load_that_does_not_end_takes_the_turn_from_nobody() -> None:
    ended, begun = threading.Event(), threading.Semaphore(0)

    def stuck() -> None:
        begun.release()
        ended.wait(PATIENCE_S)

    loop = asyncio.get_running_loop()
    with LoadPool() as pool:
        turns = LoadTurns(pool=pool, max_load_s=0.05)
        for _ in range(MAX_STUCK):
            with pytest.raises(
                ModelLimit, match=r"m/1: loading took longer than models.max_load_s"
            ):
                async with turns.turn("m/1"):
                    await loop.run_in_executor(pool, stuck)
        assert begun.acquire(timeout=PATIENCE_S)
        with pytest.raises(Overloaded, match="have not ended yet"):
            async with turns.turn("m/1"):
                pass
        ended.set()
        await eventually(lambda: pool.stuck == 0)
        async with turns.turn("m/1"):
            assert await loop.run_in_executor(pool, lambda: 7) == 7


async def test_nothing_is_remembered_of_invented_names_that_failed(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    metrics = make_metrics()
    async with controlled(tmp_path, names=(NAME,), metrics=metrics) as control:
        for number in range(20):
            name = f"invented-{number}"
            for config, content in (("{}", b"no graph"), ('{"backend": "none"}', b"")):
                with pytest.raises(ModelError):
                    await control.load(name, config, {"1/model.onnx": content})
            with pytest.raises(NotFound):
                await control.load(name)
        assert [entry.name for entry in await control.index(ready_only=False)] == [NAME]
        assert set(control._lifecycle.models) == {NAME}
        assert {name for name, _ in control._statistics.all()} == {NAME}


async def test_a_brought_model_leaves_nothing_behind_once_it_is_unloaded(tmp_path: Path) -> None:
    metrics = make_metrics()
    async with controlled(tmp_path, metrics=metrics) as control:
        await control.load("brought", "{}", {"1/model.onnx": graph_bytes(1)})
        assert "brought" in str(list(metrics.registry.collect()))
        await control.unload("brought", unload_dependents=False)
        assert await control.index(ready_only=False) == []
        assert "brought" not in str(list(metrics.registry.collect()))


async def test_loads_of_one_invented_name_at_once_leave_what_worked(tmp_path: Path) -> None:
    async with controlled(tmp_path) as control:
        contents = [b"no graph", b"no graph", graph_bytes(5), b"no graph"]
        loads = [control.load(NAME, "{}", {"1/model.onnx": content}) for content in contents]
        outcomes = await asyncio.gather(*loads, return_exceptions=True)
        assert [outcome is None for outcome in outcomes] == [False, False, True, False]
        assert await answer(control) == 5.0


async def test_the_number_of_known_models_is_bounded(tmp_path: Path) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,), max_models=2) as control:
        await control.load("second", "{}", {"1/model.onnx": graph_bytes(2)})
        with pytest.raises(FailedPrecondition, match=r"2 models are the limit \(models.max_models"):
            await control.load("third", "{}", {"1/model.onnx": graph_bytes(3)})
        await control.load(NAME)
        await control.unload("second", unload_dependents=False)
        await control.load("third", "{}", {"1/model.onnx": graph_bytes(3)})


async def test_a_model_that_does_not_fit_into_memory_is_refused_with_its_sizes(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    (tmp_path / NAME / "1" / "model.data").write_bytes(bytes(3 << 20))
    metrics = make_metrics()
    async with controlled(tmp_path, free_bytes=2 << 20, metrics=metrics) as control:
        with pytest.raises(ModelLimit, match=r"'model.data', has 3.0 MiB\); 2.0 MiB may be taken"):
            await control.load(NAME)
        with pytest.raises(ModelLimit, match=r"'file:1/model.onnx', has 1.5 MiB"):
            await control.load("big", "{}", {"1/model.onnx": bytes(3 << 19)})
        assert set(control._lifecycle.models) == {NAME}
    assert refused(metrics, "memory") == 2


def test_of_several_graphs_the_largest_counts_twice_and_the_rest_once() -> None:
    sizes = {"model.onnx": 10 << 20, "model.int8.onnx": 3 << 20, "model.bin": 2 << 20}
    check_fits("m/1", sizes, 22 << 20)
    check_fits("m/1", sizes, None)
    with pytest.raises(ModelLimit, match=r"m/1: needs about 22.0 MiB"):
        check_fits("m/1", sizes, (22 << 20) - 1)


async def test_files_of_a_load_count_as_pending_until_they_are_on_disk(tmp_path: Path) -> None:
    metrics = make_metrics()
    admission = Admission(max_pending_items=9, max_pending_bytes=1000, metrics=metrics)
    gate = Gate()
    async with controlled(tmp_path, admission=admission) as control:
        gate.hold(control)
        files = {"1/model.onnx": graph_bytes(1)}
        loading = asyncio.create_task(control.load("m", "{}", files))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"exceed limits.max_pending_bytes"):
            admission.admit(1, size_bytes=1000).__enter__()
        await gate.wait_for_a_load()
        assert not files, "the load goes on without its caller's memory"
        with admission.admit(1, size_bytes=1000):
            pass
        gate.opened.set()
        await loading


async def test_a_configuration_that_came_with_a_load_holds_until_the_unload(
    tmp_path: Path,
) -> None:
    add_version(tmp_path, NAME, 1)
    async with controlled(tmp_path, names=(NAME,)) as control:

        async def batch_size(config: str | None = None) -> int:
            await control.load(NAME, config)
            with control.lease(NAME, "") as model:
                return int(model.config.max_batch_size)

        assert await batch_size('{"max_batch_size": 3}') == 3
        assert await batch_size() == 3
        (tmp_path / NAME / "1" / "model.onnx").write_bytes(graph_bytes(8))
        assert await batch_size() == 3
        assert await answer(control) == 8.0
        with pytest.raises(ModelError):
            await control.load(NAME, '{"max_batch_size": -1}')
        assert await batch_size() == 3
        assert await batch_size('{"max_batch_size": 5}') == 5
        await control.unload(NAME, unload_dependents=False)
        assert await batch_size() == 4, "as the graph and Triton's default say"


async def test_a_load_whose_caller_left_while_its_files_were_written_loads_nothing(
    tmp_path: Path,
) -> None:
    async with controlled(tmp_path) as control:
        asked = asyncio.create_task(control.load("m", "{}", {"1/model.onnx": graph_bytes(1)}))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        await eventually(lambda: not control.changes)
        assert await states(control) == {}

"""Runs that nobody waits for any more, or that take too long, are ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.engines.tiny_models import config, endless, save
from vecserve_server.domain.tensors import TensorRequest
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import DeadlineExceeded, Draining
from vecserve_server.observability.metrics import Metrics, make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.cores import Cores
from vecserve_server.serving.load_turns import LoadPool
from vecserve_server.serving.model_versions import LoadedVersion, VersionSource
from vecserve_server.serving.onnx_loader import OnnxDefaults, OnnxLoader

PATIENCE_S = 60.0
FOREVER = np.ones(1, np.float32)


@asynccontextmanager
async def looping(
    folder: Path, metrics: Metrics, *, max_run_s: float = PATIENCE_S
) -> AsyncIterator[LoadedVersion]:
    """Load a model of one instance, which does not answer what is above 0."""
    save(folder, endless())
    text = 'name: "m" instance_group { kind: KIND_CPU count: 1 }'
    source = VersionSource(root=folder, name="m", version="1", proto=config(text))
    with LoadPool() as pool:
        loader = OnnxLoader(
            engines=shipped_engines(),
            defaults=OnnxDefaults(cpu_cores=1, max_run_s=max_run_s),
            metrics=metrics,
            clock_ns=time.perf_counter_ns,
            load_pool=pool,
            cores=Cores(count=1),
        )
        loaded = await loader.load(source, ModelStatistics(wall_clock_ms=int))
        yield loaded
        assert await loaded.close(PATIENCE_S)


async def ask(loaded: LoadedVersion, x: np.ndarray, *, patience_s: float | None = None) -> float:
    deadline_ns = None if patience_s is None else time.perf_counter_ns() + int(patience_s * 1e9)
    async with asyncio.timeout(PATIENCE_S):
        reply = await loaded.infer(TensorRequest(inputs={"x": x}, deadline_ns=deadline_ns))
    return float(reply.outputs["y"][0])


def ended(metrics: Metrics, reason: str) -> float:
    return float(metrics.models.ended_runs.labels(model="m", reason=reason)._value.get())


async def test_a_run_ends_with_the_deadline_of_its_last_caller(tmp_path: Path) -> None:
    metrics = make_metrics()
    async with looping(tmp_path, metrics) as loaded:
        with pytest.raises(DeadlineExceeded):
            await ask(loaded, FOREVER, patience_s=0.05)
        assert await ask(loaded, -FOREVER) == -1, "the only instance is free again"
    assert ended(metrics, "abandoned") == 1


async def test_a_run_ends_when_its_caller_leaves(tmp_path: Path) -> None:
    metrics = make_metrics()
    async with looping(tmp_path, metrics) as loaded:
        asking = asyncio.create_task(ask(loaded, FOREVER))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert await ask(loaded, -FOREVER) == -1


async def test_a_run_that_takes_too_long_ends_though_its_caller_waits(tmp_path: Path) -> None:
    metrics = make_metrics()
    async with looping(tmp_path, metrics, max_run_s=0.05) as loaded:
        with pytest.raises(DeadlineExceeded, match=r"longer than models.max_run_s = 0.05"):
            await ask(loaded, FOREVER)
        assert await ask(loaded, -FOREVER) == -1
    assert ended(metrics, "overdue") == 1


async def test_a_run_ends_when_its_model_is_closed(tmp_path: Path) -> None:
    async with looping(tmp_path, make_metrics()) as loaded:
        asking = asyncio.create_task(ask(loaded, FOREVER))
        await asyncio.sleep(0)
        assert await loaded.close(PATIENCE_S)
        with pytest.raises(Draining):
            await asking

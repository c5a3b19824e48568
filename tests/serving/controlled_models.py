"""A model control over real ONNX models, for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import numpy as np

from tests.serving.tiny_onnx import config_text
from vecserve_server.domain.models import ModelState
from vecserve_server.domain.tensors import TensorRequest
from vecserve_server.engines.onnx_loading import LoadLimits
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.observability.metrics import Metrics, make_metrics
from vecserve_server.observability.model_statistics import ModelStatistics, StatisticsTable
from vecserve_server.scheduling.cores import Cores
from vecserve_server.services.inference import TensorModel
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.load_turns import LoadPool, LoadTurns
from vecserve_server.serving.model_control import ControlMode, ControlPolicy, ModelControl
from vecserve_server.serving.model_lifecycle import ModelLifecycle
from vecserve_server.serving.model_loading import ModelLoading
from vecserve_server.serving.model_versions import LoadedVersion, VersionSource
from vecserve_server.serving.onnx_loader import OnnxDefaults, OnnxLoader

NAME = "add"
PATIENCE_S = 60.0
READY, UNAVAILABLE = ModelState.READY, ModelState.UNAVAILABLE


class Gate:
    """Holds the loads of a control while it is shut, and writes them down."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.loaded: list[str] = []
        self._entered = asyncio.Event()

    def hold(self, control: ModelControl) -> None:
        [loader] = control._lifecycle._loading._loaders
        load = loader.load

        async def held(source: VersionSource, statistics: ModelStatistics) -> LoadedVersion:
            self.loaded.append(source.name)
            self._entered.set()
            await self.opened.wait()
            return await load(source, statistics)

        loader.load = held  # type: ignore[method-assign]

    async def wait_for_a_load(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._entered.wait()


@asynccontextmanager
async def controlled(
    root: Path,
    *,
    mode: ControlMode = "explicit",
    names: tuple[str, ...] = (),
    drain_s: float = 20,
    poll_s: float = 0.01,
    max_changes: int = 64,
    max_models: int = 1000,
    max_load_s: float = PATIENCE_S,
    max_warm_up_s: float = PATIENCE_S,
    free_bytes: int | None = None,
    admission: Admission | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[ModelControl]:
    statistics = StatisticsTable(wall_clock_ms=int)
    metrics = metrics or make_metrics()
    with LoadPool() as loads, ThreadPoolExecutor(1) as folders:
        loader = OnnxLoader(
            engines=shipped_engines(),
            defaults=OnnxDefaults(cpu_cores=1, limits=LoadLimits(max_warm_up_s=max_warm_up_s)),
            metrics=metrics,
            clock_ns=time.perf_counter_ns,
            load_pool=loads,
            cores=Cores(count=1),
        )
        loading = ModelLoading(
            loaders=[loader],
            statistics=statistics,
            cache=None,
            turns=LoadTurns(pool=loads, max_load_s=max_load_s),
            free_bytes=lambda: free_bytes,
            metrics=metrics,
            clock_ns=time.perf_counter_ns,
        )
        lifecycle = ModelLifecycle(
            loading=loading,
            catalog=Catalog(default=""),
            statistics=statistics,
            folder_pool=folders,
            drain_s=drain_s,
        )
        policy = ControlPolicy(
            mode=mode,
            names=names,
            default="",
            poll_s=poll_s,
            max_changes=max_changes,
            max_models=max_models,
        )
        control = ModelControl(
            root=root,
            policy=policy,
            lifecycle=lifecycle,
            statistics=statistics,
            holding=admission.also_holding if admission else lambda _: nullcontext(),
        )
        try:
            await control.start()
            yield control
        finally:
            await control.close(PATIENCE_S)


async def ask(model: TensorModel, value: float = 0.0) -> float:
    reply = await model.infer(TensorRequest(inputs={"x": np.array([[value]], np.float32)}))
    return float(reply.outputs["y"][0, 0])


async def answer(control: ModelControl, version: str = "") -> float:
    with control.lease(NAME, version) as model:
        return await ask(model)


async def states(control: ModelControl) -> dict[str, ModelState | None]:
    return {entry.version: entry.state for entry in await control.index(ready_only=False)}


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - control tells nobody when it is done
            await asyncio.sleep(0.005)


async def eventually_states(control: ModelControl, wanted: Mapping[str, ModelState]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await states(control) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def is_served(control: ModelControl, version: str) -> Callable[[], bool]:
    return lambda: control.is_ready(NAME, version)


def write_config(root: Path, more: str) -> None:
    (root / NAME / "config.pbtxt").write_text(config_text(NAME, more))

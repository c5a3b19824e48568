"""Load an ONNX model and start its batcher.

Owns the choice of the batcher's policy. Must not know which models there are. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tritonclient.grpc import model_config_pb2

from vecserve_server.encoding.openvino_runtime import openvino_module
from vecserve_server.observability.metrics import Metrics
from vecserve_server.onnx_models.completion import DEFAULT_MAX_BATCH_SIZE
from vecserve_server.onnx_models.loading import load_version
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.hold_policy import HoldPolicy
from vecserve_server.scheduling.policy import BatchPolicy
from vecserve_server.scheduling.tensor_batcher import OnRun, TensorBatcher, Waiting, abandoned
from vecserve_server.scheduling.triton_policy import TritonPolicy
from vecserve_server.scheduling.triton_settings import (
    TritonPolicySettings,
    triton_policy_settings,
)
from vecserve_server.services.onnx_model import OnnxModel


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDefaults:
    """What holds for models that do not say otherwise."""

    cpu_cores: int
    """Instances on the CPU, and threads that a run may use."""
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE
    """Of a model whose graph takes batches and that has no configuration."""
    max_queue_size: int = 10_000
    """Requests that may wait, per priority level."""
    hold_until_queued: int = 0
    """The test hook of `HoldPolicy`; 0: off."""


async def load_onnx_model(
    folder: Path,
    version: int,
    proto: model_config_pb2.ModelConfig | None = None,
    *,
    name: str,
    metrics: Metrics,
    clock_ns: Callable[[], int],
    on_run: OnRun,
    defaults: OnnxDefaults,
    load_pool: Executor | None = None,
    cores: Cores | None = None,
) -> OnnxModel:
    """Load, warm up and start a version; `folder` is the model's, None stands for no configuration.

    Instances on the CPU share `cores` with those of other models.
    Raises `ModelError` naming the file or the field at fault.
    """
    loop = asyncio.get_running_loop()
    load = partial(
        load_version,
        folder,
        version,
        proto,
        name=name,
        cpu_cores=defaults.cpu_cores,
        default_max_batch_size=defaults.max_batch_size,
        openvino=openvino_module,
    )
    loaded = await loop.run_in_executor(load_pool, load)
    settings = _bounded(triton_policy_settings(loaded.config), defaults.max_queue_size)
    batcher = TensorBatcher(
        name=name,
        runs=loaded.runs,
        policy=_policy(settings, defaults.hold_until_queued),
        preserve_ordering=settings.preserve_ordering,
        clock_ns=clock_ns,
        metrics=metrics,
        on_run=on_run,
        cores=cores if loaded.uses_cpu else None,
    )
    return OnnxModel(version=version, loaded=loaded, batcher=batcher)


def _policy(settings: TritonPolicySettings, hold: int) -> BatchPolicy[Waiting]:
    policy: TritonPolicy[Waiting] = TritonPolicy(settings=settings, abandoned=abandoned)
    return HoldPolicy(policy, hold=hold) if hold else policy


def _bounded(settings: TritonPolicySettings, limit: int) -> TritonPolicySettings:
    """Return the settings with a limit for each queue that has none."""
    default = settings.default_queue_policy
    return replace(
        settings,
        default_queue_policy=replace(default, max_queue_size=default.max_queue_size or limit),
        queue_policies={
            level: replace(policy, max_queue_size=policy.max_queue_size or limit)
            for level, policy in settings.queue_policies.items()
        },
    )

"""ONNX models as models that come and go.

Owns the way from a version's files to a model with a batcher, and the choice of the batcher's
policy. Must not know when a version is loaded or retired. Loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial

from vecserve.inference import model_config_pb2
from vecserve_server.engines.onnx_loading import LoadLimits, load_version
from vecserve_server.engines.registry import Engines
from vecserve_server.model_files.onnx_config import is_onnx_model
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.scheduling.compute import Compute
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.policies.hold_policy import HoldPolicy
from vecserve_server.scheduling.policies.policy import BatchPolicy
from vecserve_server.scheduling.policies.triton_policy import TritonPolicy
from vecserve_server.scheduling.policies.triton_settings import (
    TritonPolicySettings,
    triton_policy_settings,
)
from vecserve_server.scheduling.tensor_batcher import TensorBatcher
from vecserve_server.scheduling.tensor_payload import Waiting, abandoned
from vecserve_server.scheduling.tensor_run import Arrays, Part
from vecserve_server.serving.model_versions import LoadedVersion, VersionSource
from vecserve_server.serving.onnx_model import OnnxInference


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDefaults:
    """What holds for models that do not say otherwise."""

    cpu_cores: int
    """Instances on the CPU, and threads that a run may use."""
    max_queue_size: int = 10_000
    """Requests that may wait, per priority level."""
    hold_until_queued: int = 0
    """The test hook of `HoldPolicy`; 0: off."""
    limits: LoadLimits = field(default_factory=LoadLimits)
    max_run_s: float = 600.0
    """Longer runs are ended."""


class OnnxLoader:
    """The `VersionLoader` of ONNX models, and of those that do not say what they are."""

    def __init__(
        self,
        *,
        engines: Engines,
        defaults: OnnxDefaults,
        metrics: Metrics,
        clock_ns: Callable[[], int],
        load_pool: Executor,
        cores: Cores,
    ) -> None:
        """Load in `load_pool`; instances on the CPU share `cores`."""
        self._engines = engines
        self._defaults = defaults
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._load_pool = load_pool
        self._cores = cores

    def accepts(self, proto: model_config_pb2.ModelConfig) -> bool:
        """See `VersionLoader`."""
        return is_onnx_model(proto)

    async def load(self, source: VersionSource, statistics: ModelStatistics) -> LoadedVersion:
        """See `VersionLoader`."""
        work = partial(
            load_version,
            source.folder,
            source.version,
            source.proto,
            cpu_cores=self._defaults.cpu_cores,
            limits=self._defaults.limits,
            engines=self._engines,
        )
        loaded = await asyncio.get_running_loop().run_in_executor(self._load_pool, work)
        settings = _bounded(triton_policy_settings(loaded.config), self._defaults.max_queue_size)
        compute: Compute[Part, Arrays] = TensorBatcher(
            name=source.name,
            runs=loaded.runs,
            policy=_policy(settings, self._defaults.hold_until_queued),
            preserve_ordering=settings.preserve_ordering,
            clock_ns=self._clock_ns,
            metrics=self._metrics,
            on_run=statistics.executed,
            max_run_s=self._defaults.max_run_s,
            cores=self._cores if loaded.uses_cpu else None,
        )
        return LoadedVersion(
            name=loaded.config.name,
            version=source.version,
            config=loaded.config,
            labels=loaded.labels,
            infer=OnnxInference(loaded=loaded, compute=compute, clock_ns=self._clock_ns).infer,
            digest=loaded.digest,
            queued=lambda: compute.queued,
            close=compute.close,
        )


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

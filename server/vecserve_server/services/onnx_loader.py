"""ONNX models as models that come and go.

Owns the adaptation of their loading to the control over models. Must not know when a version is
loaded or retired. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from tritonclient.grpc import model_config_pb2

from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics
from vecserve_server.onnx_models.config import is_onnx_model
from vecserve_server.scheduling.cores import Cores
from vecserve_server.services.model_versions import LoadedVersion, VersionSource
from vecserve_server.services.onnx_loading import OnnxDefaults, load_onnx_model


class OnnxLoader:
    """The `VersionLoader` of ONNX models, and of those that do not say what they are."""

    def __init__(
        self,
        *,
        defaults: OnnxDefaults,
        metrics: Metrics,
        clock_ns: Callable[[], int],
        load_pool: Executor,
        cores: Cores,
    ) -> None:
        """Load in `load_pool`; instances on the CPU share `cores`."""
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
        model = await load_onnx_model(
            source.folder,
            int(source.version),
            source.proto,
            name=source.name,
            metrics=self._metrics,
            clock_ns=self._clock_ns,
            on_run=statistics.executed,
            defaults=self._defaults,
            load_pool=self._load_pool,
            cores=self._cores,
        )
        statistics.queued = lambda: model.queued
        return LoadedVersion(model=model, digest=model.digest, close=model.close)

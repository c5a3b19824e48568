"""From a version's files to a model that is counted and, where asked for, cached.

Owns the choice of the loader and what every version's `infer` passes through. Must not know which
versions are wanted. Loop only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import MODEL_CONFIG_FILE
from vecserve_server.domain.tensors import Infer
from vecserve_server.errors import ModelError, ModelLimit, VecserveError
from vecserve_server.observability.logging import get_logger
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_statistics import ModelStatistics, StatisticsTable
from vecserve_server.serving.counting import counted
from vecserve_server.serving.load_memory import check_fits, file_sizes
from vecserve_server.serving.load_turns import LoadTurns
from vecserve_server.serving.model_versions import LoadedVersion, VersionLoader, VersionSource
from vecserve_server.serving.response_cache import CachedInference, ResponseCache


class ModelLoading:
    """Load versions of any kind."""

    def __init__(
        self,
        *,
        loaders: Sequence[VersionLoader],
        statistics: StatisticsTable,
        cache: ResponseCache | None,
        turns: LoadTurns,
        free_bytes: Callable[[], int | None],
        metrics: Metrics,
        clock_ns: Callable[[], int],
    ) -> None:
        """Take the first loader that accepts a configuration; None for `cache` turns it off.

        `free_bytes` tells what a load may take of memory; None: any.
        """
        self._turns = turns
        self._free_bytes = free_bytes
        self._loaders = loaders
        self._statistics = statistics
        self._cache = cache
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._log = get_logger("models")

    async def load(
        self, source: VersionSource, on_begin: Callable[[], None] = lambda: None
    ) -> LoadedVersion:
        """Load and warm up a version when it is its turn, of which `on_begin` is told.

        Raises ModelError that says what is wrong, and Overloaded where loads are stuck.
        """
        statistics = self._statistics.of(source.name, source.version)
        what = f"{source.name}/{source.version}"
        try:
            async with self._turns.turn(what):
                on_begin()
                started_ns = self._clock_ns()
                check_fits(what, file_sizes(source.folder / source.version), self._free_bytes())
                loaded = await self._loader(source.proto).load(source, statistics)
        except ModelLimit as error:
            self._metrics.models.refused_loads.labels(reason=error.bound).inc()
            raise
        except VecserveError:
            raise
        except Exception as error:  # an engine may raise anything over a file from elsewhere
            self._log.exception("model_load_failed", extra={"fields": {"model": source.name}})
            raise ModelError(
                f"{source.name}/{source.version}: {type(error).__name__}; the server's log has the "
                "details"
            ) from error
        seconds = (self._clock_ns() - started_ns) / 1e9
        statistics.loaded(seconds=seconds, queued=loaded.queued)
        return replace(loaded, infer=self._chained(loaded, statistics))

    def refuse_too_large(self, what: str, sizes: Mapping[str, int]) -> None:
        """Raise ModelLimit where files that are to be loaded take more memory than there is."""
        try:
            check_fits(what, sizes, self._free_bytes())
        except ModelLimit as error:
            self._metrics.models.refused_loads.labels(reason=error.bound).inc()
            raise

    def forget(self, name: str) -> None:
        """Drop the metrics of a model that is gone for good."""
        self._metrics.forget_model(name)

    def _loader(self, proto: model_config_pb2.ModelConfig) -> VersionLoader:
        for loader in self._loaders:
            if loader.accepts(proto):
                return loader
        raise ModelError(
            f'{proto.name}/{MODEL_CONFIG_FILE}: backend "{proto.backend or proto.platform}" '
            "is not supported"
        )

    def _chained(self, loaded: LoadedVersion, statistics: ModelStatistics) -> Infer:
        """Count what a version answers and, where its configuration asks for it, answer once."""
        infer = loaded.infer
        if self._cache is not None and loaded.config.response_cache.enable:
            infer = CachedInference(
                infer,
                identity=(loaded.name, loaded.version, loaded.digest),
                cache=self._cache,
                statistics=statistics,
                clock_ns=self._clock_ns,
            ).infer
        return counted(
            infer,
            model=loaded.name,
            statistics=statistics,
            metrics=self._metrics,
            clock_ns=self._clock_ns,
        )

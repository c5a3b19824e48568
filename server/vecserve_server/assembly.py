"""How the parts that serve models are put together.

Owns the wiring of loaders, batchers, statistics and the control over them. `app.py` decides when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from vecserve_server.collections.collections import Collections
from vecserve_server.collections.opening import Bounds, readers_of
from vecserve_server.domain.vectors import Encodings, TokenIds
from vecserve_server.encoding.text_model import TextModel
from vecserve_server.encoding.tokenising import Tokenising
from vecserve_server.engines.onnx_loading import LoadLimits
from vecserve_server.engines.registry import Engines
from vecserve_server.errors import ConfigError
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.index.building.build_job import BuildJob
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.index_metrics import IndexMetrics
from vecserve_server.index.opening import Indexes
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.index.vectors.planning import Costs, Thresholds, measured_thresholds
from vecserve_server.observability.cache_metrics import CacheMetrics
from vecserve_server.observability.machine_metrics import MachineMetrics
from vecserve_server.observability.memory import available_memory_bytes
from vecserve_server.observability.metrics import Metrics
from vecserve_server.observability.model_metrics import ModelMetrics
from vecserve_server.observability.model_statistics import StatisticsTable
from vecserve_server.observability.process import usable_physical_cores, usable_threads
from vecserve_server.scheduling.batcher import DynamicBatcher, QueueBounds
from vecserve_server.scheduling.computation import Computation, Computations, abandoned
from vecserve_server.scheduling.compute import Compute
from vecserve_server.scheduling.cores import Cores
from vecserve_server.scheduling.dispatcher import OnBatch
from vecserve_server.scheduling.policies.encoder_policy import EncoderPolicy
from vecserve_server.scheduling.policies.hold_policy import HoldPolicy
from vecserve_server.scheduling.policies.policy import BatchPolicy
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedder import Embedder
from vecserve_server.serving.load_turns import LoadPool, LoadTurns
from vecserve_server.serving.model_control import ControlPolicy, ModelControl
from vecserve_server.serving.model_lifecycle import ModelLifecycle
from vecserve_server.serving.model_loading import ModelLoading
from vecserve_server.serving.onnx_loader import OnnxDefaults, OnnxLoader
from vecserve_server.serving.response_cache import ResponseCache
from vecserve_server.serving.text_loader import TextLoader
from vecserve_server.settings.model_settings import ModelSettings
from vecserve_server.settings.settings import Settings
from vecserve_server.storage.rows.writer import RowWriter

LOOK_AHEAD_ENTRIES = 16
MIN_SHARE_TOKENS = 64
MOST_OPEN_STORES = 128
"""Of their own memory, open stores take some hundred kilobytes each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Threads that models use beside their instances."""

    tokenise: Executor
    tokenise_long: Executor
    """One thread, for texts that would hold up all others."""
    load: LoadPool
    """One thread: loads that ran side by side would spoil each other's measurements.

    What it starts, an engine's threads among others, is as nice as it is.
    """
    folders: Executor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """What serves models."""

    catalog: Catalog
    embedder: Embedder
    control: ModelControl
    release: Callable[[], None]
    """Retire the versions that serve only because they were in use."""


def build_indexes(settings: Settings, maintenance: IndexMaintenance) -> Indexes:
    """Put together what opens the collections' indexes."""
    index = settings.index

    def thresholds(costs: Costs) -> Thresholds:
        measured = measured_thresholds(costs)
        return replace(
            measured,
            first_rows=index.first_rows or measured.first_rows,
            delta_rows=index.delta_rows or measured.delta_rows,
        )

    return Indexes(
        maintenance=maintenance,
        options=IndexOptions(
            handles=settings.compute.search_threads,
            thresholds=thresholds,
            exact_rows=index.exact_rows,
            build_memory_bytes=index.build_memory_bytes,
            job=BuildJob(
                dim=0,
                sources=(),
                target_recall=index.target_recall,
                niceness=index.builder_niceness,
            ),
        ),
    )


def build_bounds(settings: Settings, descriptors: int) -> Bounds:
    """Decide what collections share; half of the descriptors stay free for connections.

    Raises ConfigError where the descriptors are too few to work with.
    """
    compute, wanted = settings.compute, settings.storage.max_open_collections
    all_search_threads = compute.all_search_threads or 4 * compute.search_threads
    # The file, its log and the memory that connections share; each reader opens the first two.
    each = 3 + 2 * readers_of(compute.search_threads)
    fitting = descriptors // 2 // each
    # One for each thread that may use one: theirs are never closed.
    needed = max(all_search_threads + compute.upkeep_threads + 2, wanted)
    if fitting < needed:
        raise ConfigError(
            f"the process may have {descriptors} files open (ulimit -n), half of which suffice for "
            f"{fitting} open collections of {each} files each; {needed} are needed by "
            "compute.all_search_threads, compute.upkeep_threads and storage.max_open_collections: "
            f"allow {2 * each * needed} files, or lower these"
        )
    return Bounds(
        max_read_s=settings.limits.max_read_s,
        search_threads=compute.search_threads,
        all_search_threads=all_search_threads,
        upkeep_threads=compute.upkeep_threads,
        open_stores=wanted or min(fitting, MOST_OPEN_STORES),
    )


def build_upkeep(settings: Settings, collections: Collections, metrics: Metrics) -> UpkeepService:
    """Put together what looks after collections."""
    storage = settings.storage
    upkeep = UpkeepService(
        collections=collections,
        snapshots=storage.snapshot_dir or storage.data_dir / "snapshots",
        max_jobs=settings.limits.max_upkeep_jobs,
    )
    metrics.store.upkeep_jobs.set_function(lambda: upkeep.jobs)
    return upkeep


def measure_writer(writer: RowWriter, metrics: Metrics) -> None:
    """Let metrics read what the writer did."""
    metrics.queued_rows.set_function(lambda: writer.stats().queued_rows)
    metrics.commits.set_function(lambda: writer.stats().commits)
    metrics.failed_commits.set_function(lambda: writer.stats().failed_commits)
    metrics.commit_seconds.set_function(lambda: writer.stats().commit_seconds)


def measure_collections(collections: Collections, metrics: Metrics) -> None:
    """Let metrics read the state of the collections."""
    stores = collections.stores
    metrics.registry.register(IndexMetrics(collections.index_stats))
    metrics.store.open_stores.set_function(lambda: len(stores))
    metrics.store.opened_stores.set_function(lambda: stores.opened)
    metrics.store.waiting_reads.set_function(lambda: collections.reads.waiting)


def build_models(
    *,
    settings: Settings,
    engines: Engines,
    pools: Pools,
    metrics: Metrics,
    clock_ns: Callable[[], int],
    in_use: Callable[[str], Collection[str]],
    admission: Admission,
) -> ModelParts:
    """Put together what serves models; nothing is loaded yet.

    `in_use` tells which versions of a model must serve on whatever its policy admits.
    """
    models = settings.models
    catalog = Catalog(default=settings.models.default)
    embedder = Embedder(limits=settings.limits, clock_ns=clock_ns, metrics=metrics)
    statistics = StatisticsTable(wall_clock_ms=lambda: time.time_ns() // 1_000_000)
    caches = models.response_cache_bytes > 0
    metrics.registry.register(ModelMetrics(statistics, with_cache=caches))
    metrics.registry.register(MachineMetrics())
    cores = Cores(count=usable_physical_cores(), niceness=settings.compute.model_niceness)
    cache = _response_cache(settings, metrics)
    lifecycle = ModelLifecycle(
        loading=ModelLoading(
            loaders=[
                _text_loader(settings, engines, pools, embedder, metrics, clock_ns, cores),
                _onnx_loader(settings, engines, pools, metrics, clock_ns, cores),
            ],
            statistics=statistics,
            cache=cache,
            turns=LoadTurns(pool=pools.load, max_load_s=models.max_load_s),
            free_bytes=lambda: models.max_load_bytes or available_memory_bytes(),
            metrics=metrics,
            clock_ns=clock_ns,
        ),
        catalog=catalog,
        statistics=statistics,
        folder_pool=pools.folders,
        drain_s=settings.server.drain_s,
        in_use=in_use,
    )
    control = ModelControl(
        root=settings.models.repository,
        policy=_control_policy(models),
        lifecycle=lifecycle,
        statistics=statistics,
        holding=admission.also_holding,
        refused=lambda bound: metrics.models.refused_loads.labels(reason=bound).inc(),
    )
    metrics.models.changes.set_function(lambda: control.changes)
    return ModelParts(
        catalog=catalog, embedder=embedder, control=control, release=lifecycle.release
    )


def _response_cache(settings: Settings, metrics: Metrics) -> ResponseCache | None:
    if not settings.models.response_cache_bytes:
        return None
    cache = ResponseCache(max_bytes=settings.models.response_cache_bytes)
    metrics.response_cache_bytes.set_function(lambda: cache.size_bytes)
    metrics.registry.register(CacheMetrics(cache.statistics))
    return cache


def _text_loader(
    settings: Settings,
    engines: Engines,
    pools: Pools,
    embedder: Embedder,
    metrics: Metrics,
    clock_ns: Callable[[], int],
    cores: Cores,
) -> TextLoader:
    def start(text: TextModel, on_run: OnBatch) -> Compute[Sequence[TokenIds], Encodings]:
        return DynamicBatcher(
            name=text.ref.name,
            dim=text.config.dim,
            runs=[text.encoder.run] * (text.config.instance_count or usable_physical_cores()),
            computations=Computations(
                key=np.ndarray.tobytes,
                cost=len,
                # The test hook counts what waits; what is joined does not.
                share_identical=not settings.models.delay_scheduler,
            ),
            policy=_encoder_policy(text, hold=settings.models.delay_scheduler),
            bounds=QueueBounds(
                entries=settings.limits.max_pending_items,
                tokens=settings.limits.max_queued_tokens,
            ),
            clock_ns=clock_ns,
            metrics=metrics,
            on_run=on_run,
            cores=cores,
        )

    return TextLoader(
        engines=engines,
        default_instances=usable_physical_cores(),
        precision=settings.models.precision or None,
        start_compute=start,
        embedder=embedder,
        tokenising=Tokenising(
            pool=pools.tokenise,
            threads=settings.compute.tokenise_threads,
            long_pool=pools.tokenise_long,
            clock_ns=clock_ns,
        ),
        max_text_bytes=settings.limits.max_text_bytes,
        metrics=metrics,
        clock_ns=clock_ns,
        load_pool=pools.load,
    )


def _onnx_loader(
    settings: Settings,
    engines: Engines,
    pools: Pools,
    metrics: Metrics,
    clock_ns: Callable[[], int],
    cores: Cores,
) -> OnnxLoader:
    return OnnxLoader(
        engines=engines,
        defaults=OnnxDefaults(
            cpu_cores=usable_physical_cores(),
            max_queue_size=settings.limits.max_pending_items,
            hold_until_queued=settings.models.delay_scheduler,
            limits=LoadLimits(
                max_threads=settings.models.max_threads or usable_threads(),
                max_warm_up_s=settings.models.max_warm_up_s,
            ),
            max_run_s=settings.models.max_run_s,
        ),
        metrics=metrics,
        clock_ns=clock_ns,
        load_pool=pools.load,
        cores=cores,
    )


def _encoder_policy(text: TextModel, *, hold: int) -> BatchPolicy[Computation[TokenIds]]:
    policy: EncoderPolicy[Computation[TokenIds]] = EncoderPolicy(
        run_tokens=text.config.run_tokens,
        min_share_tokens=MIN_SHARE_TOKENS,
        look_ahead_entries=LOOK_AHEAD_ENTRIES,
        abandoned=abandoned,
        choose=text.encoder.together,
    )
    return HoldPolicy(policy, hold=hold) if hold else policy


def _control_policy(models: ModelSettings) -> ControlPolicy:
    return ControlPolicy(
        mode=models.control_mode,
        names=models.load,
        default=models.default,
        poll_s=models.poll_s,
        max_changes=models.max_changes,
        max_models=models.max_models,
    )

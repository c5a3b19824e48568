"""The doors of the server: servicers over the services, and the metrics' HTTP port.

Owns what each servicer is given. Must not know how services are built, nor when the doors open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from vecserve_server.errors import ConfigError
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.gateway.common.call import CallScope
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.kserve.servicer import InferenceServicer
from vecserve_server.gateway.kserve.shared_memory import shared_memory_regions
from vecserve_server.gateway.server import Servicers
from vecserve_server.gateway.vecserve.admin_servicer import AdminServicer
from vecserve_server.gateway.vecserve.answering import Answering
from vecserve_server.gateway.vecserve.collection_servicer import CollectionServicer
from vecserve_server.gateway.vecserve.embedding_servicer import EmbeddingServicer
from vecserve_server.gateway.vecserve.filters import FilterLimits
from vecserve_server.gateway.vecserve.index_servicer import IndexServicer
from vecserve_server.gateway.vecserve.search_servicer import SearchServicer
from vecserve_server.observability.exposition import ScrapeLimits, serve_metrics
from vecserve_server.observability.metrics import Metrics
from vecserve_server.services.classifying import ClassifyingService
from vecserve_server.services.declaring import DeclaringService
from vecserve_server.services.embedding import EmbeddingService
from vecserve_server.services.indexing import IndexingService
from vecserve_server.services.inference import InferenceService
from vecserve_server.services.reading import ReadingService
from vecserve_server.services.reindexing import ReindexingService
from vecserve_server.services.reporting import ReportingService
from vecserve_server.services.searching import SearchingService
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.settings.server_settings import ServerSettings
from vecserve_server.settings.settings import LimitSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What the servicers work with."""

    inference: InferenceService
    embedding: EmbeddingService
    declaring: DeclaringService
    indexing: IndexingService
    reading: ReadingService
    searching: SearchingService
    classifying: ClassifyingService
    reindexing: ReindexingService
    upkeep: UpkeepService
    reporting: ReportingService


def build_servicers(
    core: Core,
    *,
    settings: Settings,
    admission: Admission,
    failures: Failures,
    metrics: Metrics,
    clock_ns: Callable[[], int],
    closing: asyncio.Event,
) -> Servicers:
    """Give every servicer its services; `closing` ends their streams."""
    scope = CallScope(
        admission=admission,
        metrics=metrics,
        failures=failures,
        clock_ns=clock_ns,
        closing=closing,
        stream_window=settings.limits.max_stream_window,
    )
    answering = Answering(
        scope=scope,
        max_items_per_call=settings.limits.max_items_per_call,
        filter_limits=_filter_limits_of(settings.limits),
    )
    return Servicers(
        embedding=EmbeddingServicer(service=core.embedding, answering=answering),
        collection=CollectionServicer(service=core.declaring, answering=answering),
        index=IndexServicer(indexing=core.indexing, reading=core.reading, answering=answering),
        search=SearchServicer(
            service=core.searching, classifying=core.classifying, answering=answering
        ),
        admin=AdminServicer(
            reporting=core.reporting,
            reindexing=core.reindexing,
            upkeep=core.upkeep,
            answering=answering,
        ),
        inference=InferenceServicer(
            service=core.inference,
            scope=scope,
            regions=shared_memory_regions(settings.server, metrics),
            logs_tensor_values=settings.log.trace_tensors == "values",
        ),
    )


def open_metrics(wanted: ServerSettings, metrics: Metrics) -> tuple[int, Callable[[], None]]:
    """Begin to answer scrapes; return the port, -1 where it is off, and what ends it.

    Raises ConfigError if the port cannot be bound.
    """
    if wanted.metrics_port < 0:
        return -1, lambda: None
    try:
        return serve_metrics(
            metrics.registry,
            host=wanted.host,
            port=wanted.metrics_port,
            limits=ScrapeLimits(
                max_connections=wanted.max_metrics_connections,
                timeout_s=wanted.metrics_timeout_s,
            ),
            on_pushed_out=metrics.rejected.labels(reason="scrapes").inc,
        )
    except OSError as error:
        raise ConfigError(
            f"server.metrics_port: {wanted.host}:{wanted.metrics_port} cannot be bound: "
            f"{error.strerror}"
        ) from error


def wall_clock_ms() -> int:
    """Tell the time that is stored beside what happened, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _filter_limits_of(limits: LimitSettings) -> FilterLimits:
    """Tell how large a filter may be."""
    return FilterLimits(
        conditions=limits.max_filter_conditions,
        values=limits.max_filter_values,
        depth=limits.max_filter_depth,
    )

"""The composition root: builds everything in order and takes it down in reverse.

Owns the life cycle: bind with health NOT_SERVING, open the store, load the models, SERVING; then
wait for a signal; NOT_SERVING, close the doors, answer what was accepted, drain, close. Read this
file first: each part is met once, in the order in which it starts.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import NoReturn

from vecserve_server import MAY_REPORT, __version__
from vecserve_server.assembly import (
    ModelParts,
    Pools,
    build_bounds,
    build_indexes,
    build_models,
    build_upkeep,
    measure_collections,
    measure_writer,
)
from vecserve_server.atomic_files import write_atomically
from vecserve_server.collections.collections import Collections
from vecserve_server.engines.registry import shipped_engines
from vecserve_server.errors import ConfigError
from vecserve_server.gateway.common.admission import Admission
from vecserve_server.gateway.common.failures import Failures
from vecserve_server.gateway.front import Core, build_servicers, open_metrics, wall_clock_ms
from vecserve_server.gateway.server import GrpcServer, open_server
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.freed_memory import return_what_others_free
from vecserve_server.observability.descriptors import raise_descriptor_limit
from vecserve_server.observability.logging import configure, get_logger, log_event
from vecserve_server.observability.metrics import Metrics, make_metrics
from vecserve_server.scheduling.niceness import yield_to_others
from vecserve_server.services.classifying import ClassifyingService
from vecserve_server.services.collection_vectors import CollectionEmbedder
from vecserve_server.services.declaring import DeclaringService
from vecserve_server.services.embedding import EmbeddingService
from vecserve_server.services.indexing import IndexingService
from vecserve_server.services.inference import InferenceService
from vecserve_server.services.reading import ReadingService
from vecserve_server.services.reindexing import ReindexingService
from vecserve_server.services.reporting import ReportingService
from vecserve_server.services.searching import SearchingService
from vecserve_server.services.watching import Watching
from vecserve_server.serving.load_turns import LoadPool
from vecserve_server.settings.settings import Settings
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.rows.writer import RowWriter
from vecserve_server.telemetry import warning
from vecserve_server.temporary_files import temporary_files_in

EXIT_OK, EXIT_FAILED, EXIT_FORCED = 0, 1, 130
# Threads hand the GIL over this often; the default of 5 ms would be most of a search's time.
SWITCH_INTERVAL_S = 0.0005
WRITE_GROUP_ROWS = 1024
CLOSE_TIMEOUT_S = 5.0
STOP_GRACE_S = 1.0
QUIET_S = 0.1
LAME_DUCK_S = 2.0


def serve(settings: Settings) -> NoReturn:
    """Run the server until SIGTERM or SIGINT, then leave with the exit code.

    Raises ConfigError or StorageError if it cannot start.
    """
    configure(level=settings.log.level, as_json=settings.log.format == "json")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    code = asyncio.run(_Application(settings).run())
    # A thread may hang in a system call, or compile a model for seconds yet; the interpreter would
    # wait for it.
    logging.shutdown()
    os._exit(code)


class _Application:
    """One run of the server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._log = get_logger("app")
        self._clock_ns: Callable[[], int] = time.perf_counter_ns
        self._metrics: Metrics = make_metrics()
        self._failures = Failures(logger=get_logger("gateway"))
        self._stop = asyncio.Event()
        self._closing = asyncio.Event()
        self._serving = False
        self._clean = True
        self._death: BaseException | None = None

    async def run(self) -> int:
        """Start, serve, drain."""
        started_ns = self._clock_ns()
        self._watch_signals()
        if MAY_REPORT:
            log_event(self._log, logging.WARNING, "telemetry", problem=warning(MAY_REPORT))
        async with AsyncExitStack() as stack:
            limits = self._settings.limits
            admission = Admission(
                max_pending_items=limits.max_pending_items,
                max_pending_bytes=limits.max_pending_bytes,
                metrics=self._metrics,
            )
            self._check_ready_file()
            server = self._bind(stack)
            stack.push_async_callback(server.stop, 0.0)
            await server.start()
            metrics_port, end_metrics = open_metrics(self._settings.server, self._metrics)
            stack.push_async_callback(asyncio.to_thread, end_metrics)
            writer, collections = await self._open_store(stack)
            core = await self._build_core(stack, writer, collections, admission)
            servicers = build_servicers(
                core,
                settings=self._settings,
                admission=admission,
                failures=self._failures,
                metrics=self._metrics,
                clock_ns=self._clock_ns,
                closing=self._closing,
            )
            await server.serve(servicers)
            self._serving = True
            freeing = asyncio.create_task(return_what_others_free(), name="free-memory")
            stack.callback(freeing.cancel)
            self._announce(stack, server.port, metrics_port, started_ns)
            await self._stop.wait()
            await self._drain(server, admission, writer)
        if self._death is not None:
            self._log.error("core_died", exc_info=self._death)
            return EXIT_FAILED
        log_event(self._log, logging.INFO, "stopped", clean=self._clean)
        return EXIT_OK if self._clean else EXIT_FAILED

    def _check_ready_file(self) -> None:
        ready_file = self._settings.server.ready_file
        if ready_file is not None and not os.access(ready_file.parent, os.W_OK):
            raise ConfigError(f"server.ready_file: {ready_file.parent} is not a writable folder")

    def _bind(self, stack: AsyncExitStack) -> GrpcServer:
        return open_server(
            self._settings.server,
            self._settings.limits,
            unpack_pool=self._pool(stack, "unpack", 1, self._settings.compute.model_niceness),
            metrics=self._metrics,
            failures=self._failures,
            clock_ns=self._clock_ns,
        )

    async def _open_store(self, stack: AsyncExitStack) -> tuple[RowWriter, Collections]:
        settings = self._settings
        folder = await asyncio.to_thread(DataFolder.open, settings.storage.data_dir)
        stack.callback(folder.close)
        bounds = build_bounds(settings, raise_descriptor_limit())
        stack.enter_context(temporary_files_in(folder.temporary_folder))
        search_pool = self._pool(stack, "search", bounds.all_search_threads)
        writer = self._start_writer(stack)
        collections = Collections(
            folder=folder,
            writer=writer,
            search_pool=search_pool,
            indexes=build_indexes(settings, self._start_maintenance(stack)),
            max_collections=settings.limits.max_collections,
            clock_ns=self._clock_ns,
            metrics=self._metrics,
            bounds=bounds,
        )
        measure_collections(collections, self._metrics)
        stack.push_async_callback(self._close_collections, collections)
        rows = await collections.open_all()
        facts = {"data_dir": settings.storage.data_dir, "collections": len(collections.all())}
        log_event(self._log, logging.INFO, "store_open", **facts, rows=rows)
        watching = Watching(collections=collections, every_s=settings.storage.watch_s)
        stack.push_async_callback(watching.start())
        return writer, collections

    async def _build_core(
        self,
        stack: AsyncExitStack,
        writer: RowWriter,
        collections: Collections,
        admission: Admission,
    ) -> Core:
        settings, limits = self._settings, self._settings.limits
        tokenise_pool = self._pool(stack, "tokenise", settings.compute.tokenise_threads)
        models = await self._start_models(stack, tokenise_pool, collections, admission)
        catalog, embedder = models.catalog, models.embedder
        vectors = CollectionEmbedder(catalog=catalog, embedder=embedder)
        searching = SearchingService(collections=collections, embedder=vectors, limits=limits)
        reindexing = ReindexingService(
            collections=collections,
            embedder=embedder,
            catalog=catalog,
            settings=settings.reindex,
            release_models=models.release,
            wall_clock_ms=wall_clock_ms,
        )
        stack.push_async_callback(reindexing.close)
        reindexing.open()
        upkeep = build_upkeep(settings, collections, self._metrics)
        stack.push_async_callback(upkeep.close)
        await asyncio.to_thread(upkeep.open)
        return Core(
            inference=InferenceService(models=models.control),
            embedding=EmbeddingService(catalog=catalog, embedder=embedder),
            declaring=DeclaringService(
                collections=collections, catalog=catalog, wall_clock_ms=wall_clock_ms
            ),
            indexing=IndexingService(
                collections=collections,
                embedder=vectors,
                check_pool=tokenise_pool,
                limits=limits,
                clock_ns=self._clock_ns,
            ),
            reading=ReadingService(collections=collections),
            searching=searching,
            reindexing=reindexing,
            upkeep=upkeep,
            classifying=ClassifyingService(
                searching=searching, settings=settings.classify, max_k=limits.max_k
            ),
            reporting=ReportingService(
                catalog=catalog,
                collections=collections,
                queued_rows=lambda: writer.stats().queued_rows,
                clock_ns=self._clock_ns,
            ),
        )

    def _pool(self, stack: AsyncExitStack, name: str, threads: int, niceness: int = 0) -> Executor:
        pool = ThreadPoolExecutor(
            threads,
            thread_name_prefix=name,
            initializer=yield_to_others,
            initargs=(niceness,),
        )
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        return pool

    def _load_pool(self, stack: AsyncExitStack) -> LoadPool:
        pool = LoadPool(niceness=self._settings.compute.model_niceness)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        return pool

    def _start_writer(self, stack: AsyncExitStack) -> RowWriter:
        loop = asyncio.get_running_loop()
        writer = RowWriter(
            queue_rows=self._settings.limits.max_queued_rows,
            group_rows=WRITE_GROUP_ROWS,
            on_death=lambda death: _later(loop, self._die, death),
        )
        writer.start()
        measure_writer(writer, self._metrics)
        stack.push_async_callback(asyncio.to_thread, writer.drain, CLOSE_TIMEOUT_S)
        return writer

    def _start_maintenance(self, stack: AsyncExitStack) -> IndexMaintenance:
        maintenance = IndexMaintenance()
        maintenance.start()
        stack.push_async_callback(asyncio.to_thread, maintenance.stop, CLOSE_TIMEOUT_S)
        return maintenance

    async def _start_models(
        self,
        stack: AsyncExitStack,
        tokenise_pool: Executor,
        collections: Collections,
        admission: Admission,
    ) -> ModelParts:
        models = build_models(
            settings=self._settings,
            engines=shipped_engines(),
            pools=Pools(
                tokenise=tokenise_pool,
                tokenise_long=self._pool(
                    stack, "tokenise-long", 1, self._settings.compute.model_niceness
                ),
                load=self._load_pool(stack),
                folders=self._pool(stack, "folders", 1),
            ),
            metrics=self._metrics,
            clock_ns=self._clock_ns,
            in_use=collections.model_versions,
            admission=admission,
        )
        stack.push_async_callback(models.control.close, CLOSE_TIMEOUT_S)
        await models.control.start()
        return models

    def _announce(
        self, stack: AsyncExitStack, port: int, metrics_port: int, started_ns: int
    ) -> None:
        settings = self._settings
        facts = {"host": settings.server.host, "port": port, "metrics_port": metrics_port}
        took_ms = (self._clock_ns() - started_ns) // 1_000_000
        log_event(self._log, logging.INFO, "ready", **facts, version=__version__, took_ms=took_ms)
        ready_file = settings.server.ready_file
        if ready_file is not None:
            write_atomically(ready_file, json.dumps(facts | {"pid": os.getpid()}).encode())
            stack.callback(ready_file.unlink, missing_ok=True)

    async def _drain(self, server: GrpcServer, admission: Admission, writer: RowWriter) -> None:
        """Answer what was accepted, refuse the rest."""
        log_event(self._log, logging.INFO, "draining", pending_items=admission.pending_items)
        await server.set_not_serving()
        self._closing.set()
        admission.close()
        answered = await admission.drained(self._settings.server.drain_s)
        # gRPC answers calls that meet a stopping server with CANCELLED (grpc/grpc#41785), and
        # clients do not try those again. So refuse with UNAVAILABLE until they have gone away.
        await admission.quiet(for_s=QUIET_S, timeout_s=LAME_DUCK_S)
        await server.stop(STOP_GRACE_S)
        written = await asyncio.to_thread(writer.drain, self._settings.server.drain_s)
        self._clean = answered and written

    async def _close_collections(self, collections: Collections) -> None:
        if not await collections.close(CLOSE_TIMEOUT_S):
            self._clean = False

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            log_event(self._log, logging.WARNING, "forced_exit")
            os._exit(EXIT_FORCED)
        if not self._serving:
            # Nothing was accepted yet, and a long rebuild of the index cannot be interrupted.
            log_event(self._log, logging.INFO, "stopped_before_ready")
            os._exit(EXIT_OK)
        self._stop.set()

    def _die(self, death: BaseException) -> None:
        """End the process: a core thread is gone, and waiting calls have been failed."""
        self._death = self._death or death
        self._stop.set()


def _later(
    loop: asyncio.AbstractEventLoop, call: Callable[[BaseException], None], death: BaseException
) -> None:
    loop.call_soon_threadsafe(call, death)

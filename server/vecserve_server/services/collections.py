"""All collections: opened at start, created, listed and dropped.

Owns the set and its folders. Must not know protocols or models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

from vecserve_server.domain import CollectionSpec
from vecserve_server.errors import AlreadyExists, FailedPrecondition, NotFound, StorageError
from vecserve_server.index.opening import Indexes
from vecserve_server.index.vector_index import IndexStats
from vecserve_server.observability.metrics import Metrics
from vecserve_server.services.collection import MAX_READ_S, Collection
from vecserve_server.storage.data_folder import DataFolder
from vecserve_server.storage.manifest import read_manifest
from vecserve_server.storage.row_log import RowLog
from vecserve_server.storage.writer import RowWriter

ROWS_FILE = "rows.sqlite"
SEGMENTS_FOLDER = "segments"
DROP_TIMEOUT_S = 30.0

T = TypeVar("T")


class Collections:
    """The open collections by name. Loop only."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        writer: RowWriter,
        search_pool: Executor,
        search_threads: int,
        indexes: Indexes,
        max_collections: int,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        max_read_s: float = MAX_READ_S,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._search_pool = search_pool
        # One connection for each thread that reads, so that no read waits for another.
        self._readers = search_threads
        self._indexes = indexes
        self._loop = asyncio.get_running_loop()
        self._max_collections = max_collections
        self._clock_ns = clock_ns
        self._metrics = metrics
        self._max_read_s = max_read_s
        self._open: dict[str, Collection] = {}
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()

    async def open_all(self) -> int:
        """Open every collection of the data folder; return how many rows there are."""
        rows = 0
        for name in self._folder.collection_names():
            collection, count = await asyncio.to_thread(self._open_one, name)
            self._publish(collection)
            rows += count
        return rows

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """Find a collection."""
        collection = self._open.get(name)
        if collection is None:
            raise NotFound(f"{field}: {name!r} does not exist")
        return collection

    def all(self) -> list[Collection]:
        """Return every collection, by name."""
        return [self._open[name] for name in sorted(self._open)]

    def index_stats(self) -> dict[str, IndexStats]:
        """Tell the state of each collection's index. From any thread."""
        return {name: collection.index_stats for name, collection in list(self._open.items())}

    async def create(self, spec: CollectionSpec) -> Collection:
        """Create an empty collection. Raises AlreadyExists, FailedPrecondition at the limit."""
        return await self._held(self._create(spec))

    async def drop(self, name: str) -> int:
        """Delete a collection and its files; return how many rows it had."""
        return await self._held(self._drop(name))

    async def close(self, timeout_s: float) -> bool:
        """Close every collection; return whether all came to rest in time."""
        if self._changes:
            await asyncio.wait(self._changes, timeout=timeout_s)
        closings = [collection.close(timeout_s) for collection in self._open.values()]
        self._open.clear()
        return all(await asyncio.gather(*closings)) and not self._changes

    async def _held(self, change: Coroutine[Any, Any, T]) -> T:
        # A caller that goes away must not leave a change half done.
        task = asyncio.create_task(change, name="change-collections")
        self._changes.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    async def _create(self, spec: CollectionSpec) -> Collection:
        async with self._changing:
            if spec.name in self._open:
                raise AlreadyExists(f"name: collection {spec.name!r} exists already")
            if len(self._open) >= self._max_collections:
                raise FailedPrecondition(
                    f"name: {len(self._open)} collections exist; "
                    f"limits.max_collections = {self._max_collections}"
                )
            collection = await asyncio.to_thread(self._create_one, spec)
            self._publish(collection)
            return collection

    async def _drop(self, name: str) -> int:
        async with self._changing:
            collection = self.get(name, field="name")
            rows = collection.live_rows
            del self._open[name]
            self._metrics.rows.remove(name)
            if not await collection.close(DROP_TIMEOUT_S):
                raise StorageError(f"collection {name!r}: its last write does not end")
            await asyncio.to_thread(self._folder.remove_collection, name)
            return rows

    def _create_one(self, spec: CollectionSpec) -> Collection:
        self._folder.create_collection(spec)
        try:
            return self._open_one(spec.name)[0]
        except BaseException:
            self._folder.remove_collection(spec.name)
            raise

    def _open_one(self, name: str) -> tuple[Collection, int]:
        folder = self._folder.collection_folder(name)
        spec = read_manifest(folder)
        log = RowLog.open(
            folder / ROWS_FILE,
            dim=spec.dim,
            model_digest=spec.model.digest,
            readers=self._readers,
            model_name=spec.model.name,
            model_version=spec.model.version,
            fields=spec.fields,
            text_analysis=spec.text_analysis,
        )
        try:
            index = self._indexes.open(folder / SEGMENTS_FOLDER, dim=spec.dim, rows=log)
        except BaseException:
            log.close()
            raise
        collection = Collection(
            spec=spec,
            folder=folder,
            log=log,
            index=index,
            writer=self._writer,
            search_pool=self._search_pool,
            clock_ns=self._clock_ns,
            loop=self._loop,
            max_read_s=self._max_read_s,
        )
        return collection, len(index)

    def _publish(self, collection: Collection) -> None:
        name = collection.spec.name
        self._open[name] = collection
        self._metrics.rows.labels(collection=name).set_function(lambda: collection.live_rows)

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
from vecserve_server.index.exact_index import ExactIndex
from vecserve_server.observability.metrics import Metrics
from vecserve_server.services.aliases import Aliases
from vecserve_server.services.collection import Collection
from vecserve_server.storage.data_folder import DataFolder
from vecserve_server.storage.manifest import read_manifest
from vecserve_server.storage.row_log import RowLog
from vecserve_server.storage.writer import RowWriter

ROWS_FILE = "rows.sqlite"
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
        max_collections: int,
        clock_ns: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._search_pool = search_pool
        # One connection for each thread that reads, so that no read waits for another.
        self._readers = search_threads
        self._loop = asyncio.get_running_loop()
        self._max_collections = max_collections
        self._clock_ns = clock_ns
        self._metrics = metrics
        self._aliases = Aliases(folder.aliases_file)
        self._open: dict[str, Collection] = {}
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()

    async def open_all(self) -> int:
        """Open every collection of the data folder; return how many rows there are."""
        await self._aliases.open()
        rows = 0
        for name in self._folder.collection_names():
            collection, count = await asyncio.to_thread(self._open_one, name)
            self._publish(collection)
            rows += count
        return rows

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """Find a collection by its name or an alias."""
        collection = self._open.get(self._aliases.resolve(name))
        if collection is None:
            raise NotFound(f"{field}: {name!r} does not exist")
        return collection

    def all(self) -> list[Collection]:
        """Return every collection, by name."""
        return [self._open[name] for name in sorted(self._open)]

    async def create(self, spec: CollectionSpec) -> Collection:
        """Create an empty collection. Raises AlreadyExists, FailedPrecondition at the limit."""
        return await self._held(self._create(spec))

    async def drop(self, name: str) -> int:
        """Delete a collection and its files; return how many rows it had."""
        return await self._held(self._drop(name))

    def aliases(self) -> list[tuple[str, str]]:
        """List alias and collection, by alias."""
        return self._aliases.all()

    async def set_alias(self, alias: str, name: str) -> str:
        """Let an alias stand for a collection; return for which it stood before, if any.

        Raises NotFound for the collection, AlreadyExists if the alias is a collection's name.
        """
        return await self._held(self._set_alias(alias, name))

    async def delete_alias(self, alias: str) -> None:
        """Remove an alias. Raises NotFound."""
        await self._held(self._delete_alias(alias))

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
            if (target := self._aliases.resolve(spec.name)) != spec.name:
                raise AlreadyExists(f"name: {spec.name!r} is an alias of {target!r}")
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
            self._refuse_if_aliased(name)
            rows = collection.live_rows
            del self._open[name]
            self._metrics.rows.remove(name)
            if not await collection.close(DROP_TIMEOUT_S):
                raise StorageError(f"collection {name!r}: its last write does not end")
            await asyncio.to_thread(self._folder.remove_collection, name)
            return rows

    def _refuse_if_aliased(self, name: str) -> None:
        if (target := self._aliases.resolve(name)) != name:
            raise FailedPrecondition(f"name: {name!r} is an alias of {target!r}; name that")
        if aliases := self._aliases.of(name):
            raise FailedPrecondition(
                f"name: the alias {aliases[0]!r} stands for {name!r}; move or delete it first"
            )

    async def _set_alias(self, alias: str, name: str) -> str:
        async with self._changing:
            if alias in self._open:
                raise AlreadyExists(f"alias.name: {alias!r} is the name of a collection")
            if name not in self._open:
                raise NotFound(f"alias.collection: {name!r} is not the name of a collection")
            return await self._aliases.set(alias, name)

    async def _delete_alias(self, alias: str) -> None:
        async with self._changing:
            if not await self._aliases.delete(alias):
                raise NotFound(f"name: {alias!r} is not an alias")

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
            folder / ROWS_FILE, dim=spec.dim, model_digest=spec.model.digest, readers=self._readers
        )
        collection = Collection(
            spec=spec,
            folder=folder,
            log=log,
            index=ExactIndex(dim=spec.dim),
            writer=self._writer,
            search_pool=self._search_pool,
            clock_ns=self._clock_ns,
            loop=self._loop,
        )
        return collection, collection.rebuild_index()

    def _publish(self, collection: Collection) -> None:
        name = collection.spec.name
        self._open[name] = collection
        self._metrics.rows.labels(collection=name).set_function(lambda: collection.live_rows)

"""All collections: opened at start, created, listed and dropped.

Owns the order of changes to the set and to its folders, and that each comes to its end. Must not
know protocols or models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from vecserve_server.collections.aliases import Aliases
from vecserve_server.collections.changes import Changes
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.generations import CLOSE_TIMEOUT_S, Generations
from vecserve_server.collections.opening import DEFAULT_BOUNDS, Bounds, Opening, readers_of
from vecserve_server.collections.read_shares import ReadShares
from vecserve_server.collections.register import Register
from vecserve_server.domain.collections import CollectionSpec, CollectionState
from vecserve_server.errors import (
    NotFound,
    StorageError,
    Superseded,
)
from vecserve_server.index.opening import Indexes
from vecserve_server.index.vectors.vector_index import IndexStats
from vecserve_server.observability.metrics import Metrics
from vecserve_server.storage.files.open_stores import OpenStores
from vecserve_server.storage.files.read_limit import ReadLimit
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.generations import remove_generations
from vecserve_server.storage.folders.manifest import Generation, Manifest, write_manifest
from vecserve_server.storage.folders.snapshots import restore_snapshot
from vecserve_server.storage.rows.writer import RowWriter

# A call that meets re-index after re-index gives up in the end.
TRIES = 5

T = TypeVar("T")
ManifestChange: TypeAlias = Callable[[Manifest], Manifest]


class Collections:
    """The open collections by name. Loop only."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        writer: RowWriter,
        search_pool: Executor,
        indexes: Indexes,
        max_collections: int,
        clock_ns: Callable[[], int],
        metrics: Metrics,
        bounds: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self.clock_ns = clock_ns
        self.bounds = bounds
        self.stores = OpenStores(limit=bounds.open_stores)
        self.reads = ReadShares(
            search_pool, threads=bounds.all_search_threads, share=bounds.search_threads
        )
        self._upkeep_pool = ThreadPoolExecutor(bounds.upkeep_threads, thread_name_prefix="upkeep")
        self._opening = Opening(
            folder=folder,
            writer=writer,
            reads=self.reads,
            upkeep_pool=self._upkeep_pool,
            # One connection for each thread that reads, so that no read waits for another.
            readers=readers_of(bounds.search_threads),
            stores=self.stores,
            indexes=indexes,
            clock_ns=clock_ns,
            loop=self._loop,
            max_read_s=bounds.max_read_s,
        )
        self._aliases = Aliases(folder.aliases_file)
        self._register = Register(
            aliases=self._aliases, max_collections=max_collections, metrics=metrics
        )
        self._beside = Generations()
        self._upkeep: dict[str, asyncio.Lock] = {}
        self._changing = asyncio.Lock()
        self._changes = Changes()

    async def open_all(self) -> int:
        """Open every collection of the data folder; return how many rows there are."""
        await self._aliases.open()
        for name in self._folder.collection_names():
            self._register.put(*await asyncio.to_thread(self._opening.open_live, name))
        return sum(collection.live_rows for collection in self.all())

    def get(self, name: str, *, field: str = "collection") -> Collection:
        """Find a collection by its name or an alias."""
        return self._register.get(name, field=field)

    async def using(self, name: str, use: Callable[[Collection], Awaitable[T]]) -> T:
        """Let `use` work with a collection, and again with the generation that takes its place.

        Raises NotFound and what `use` raises.
        """
        for _ in range(TRIES - 1):
            with suppress(Superseded):
                return await use(self.get(name))
        return await use(self.get(name))

    def all(self) -> list[Collection]:
        """Return every collection, by name."""
        return self._register.all()

    def down(self) -> list[str]:
        """Name the collections that nothing is written to."""
        return [one.spec.name for one in self.all() if one.standing.state is CollectionState.DOWN]

    def index_stats(self) -> dict[str, IndexStats]:
        """Tell the state of each collection's index. From any thread."""
        return self._register.index_stats()

    async def create(self, spec: CollectionSpec) -> Collection:
        """Create an empty collection. Raises AlreadyExists, FailedPrecondition at the limit."""
        return await self._changes.held(
            self._add(spec.name, lambda: self._folder.create_collection(spec))
        )

    async def restore(self, name: str, snapshot: Path, limit: ReadLimit) -> Collection:
        """Create a collection out of a snapshot's folder; none is left once `limit` is given up.

        Raises NotFound, AlreadyExists, FailedPrecondition at the limit, CorruptData, StorageError.
        """
        folder = self._folder.collection_folder(name)
        return await self._changes.held(
            self._add(name, lambda: restore_snapshot(snapshot, folder, given_up=limit), limit)
        )

    def upkeep(self, name: str) -> asyncio.Lock:
        """Return the lock of whoever opens generations of a collection that do not serve."""
        return self._upkeep.setdefault(name, asyncio.Lock())

    async def drop(self, name: str) -> int:
        """Delete a collection and its files; return how many rows it had."""
        return await self._changes.held(self._drop(name))

    def manifest(self, name: str) -> Manifest:
        """Return what is known of a collection beside its rows. Raises NotFound."""
        return self._register.manifest(name)

    def model_versions(self, model: str) -> set[str]:
        """Return the versions of a model whose vectors some collection holds or builds."""
        return {
            generation.model.version
            for manifest in self._register.manifests()
            for generation in manifest.needed
            if generation.model.name == model
        }

    async def record(self, collection: Collection, change: ManifestChange) -> Manifest:
        """Change the manifest of a collection that serves, durably.

        Raises NotFound if it was dropped or replaced, FailedPrecondition if it is down.
        """
        return await self._changes.held(self._record(collection, change))

    async def open_generation(self, collection: Collection, generation: Generation) -> Collection:
        """Open or make another generation of a collection; the caller releases it.

        Raises NotFound if the collection was dropped, CorruptData, StorageError.
        """
        return await self._changes.held(self._open_beside(collection, generation))

    async def release(self, collection: Collection) -> None:
        """Close what `open_generation` opened, unless it serves by now."""
        if not self._register.is_live(collection):
            await self._beside.release(collection)

    async def flip(
        self, live: Collection, successor: Collection, change: ManifestChange
    ) -> Manifest:
        """Let a successor serve in place of a generation whose writers are held back, durably.

        Whoever holds the old one reads on or gets Superseded. Raises as `record` does.
        """
        return await self._changes.held(self._flip(live, successor, change))

    async def discard(self, collection: Collection) -> None:
        """Remove the files of generations that the manifest does not need."""
        await self._changes.held(self._discard(collection))

    async def held(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that must come to its end; a cancelled caller waits for that."""
        return await self._changes.seen_through(work)

    def aliases(self) -> list[tuple[str, str]]:
        """List alias and collection, by alias."""
        return self._aliases.all()

    async def set_alias(self, alias: str, name: str) -> str:
        """Let an alias stand for a collection; return for which it stood before, if any.

        Raises NotFound, AlreadyExists if the alias is a collection's name.
        """
        return await self._changes.held(self._set_alias(alias, name))

    async def delete_alias(self, alias: str) -> None:
        """Remove an alias. Raises NotFound."""
        await self._changes.held(self._delete_alias(alias))

    async def settled(self) -> None:
        """Wait until no change is under way, not even one whose caller has left."""
        await self._changes.ended()

    async def close(self, timeout_s: float) -> bool:
        """Close every collection; return whether all came to rest in time."""
        await self._changes.settled(timeout_s)
        self._upkeep_pool.shutdown(wait=False, cancel_futures=True)
        kept = [*self._register.clear(), *self._beside.all()]
        closed = await asyncio.gather(*(one.close(timeout_s) for one in kept))
        return all(closed) and not self._changes

    async def _add(
        self, name: str, make: Callable[[], object], limit: ReadLimit | None = None
    ) -> Collection:
        async with AsyncExitStack() as place:
            async with self._changing:
                self._register.refuse_new(name)
                await asyncio.to_thread(self._opening.check_folder)
                place.enter_context(self._register.arriving(name))
            # Outside the lock: what a snapshot holds takes minutes to copy.
            # In its turn, where it is a job of upkeep; creating one takes a moment.
            pool = self._upkeep_pool if limit is not None else None
            collection, manifest = await self._loop.run_in_executor(
                pool, self._make_one, name, make
            )
            if limit is not None and limit():
                await collection.close(CLOSE_TIMEOUT_S)
                await asyncio.to_thread(self._folder.remove_collection, name)
                raise limit.error()
            self._register.put(collection, manifest)
            return collection

    async def _drop(self, name: str) -> int:
        async with self._changing:
            collection = self.get(name, field="name")
            self._register.refuse_if_aliased(name)
            await asyncio.to_thread(self._opening.check_folder)
            # What lies there now may be all that is left of the rows.
            await collection.refuse_if_down(only_if_replaced=True)
            rows = collection.live_rows
            self._register.remove(name)
            self._upkeep.pop(name, None)
            generations = [collection, *self._beside.take_all(name)]
            closings = [generation.close(CLOSE_TIMEOUT_S) for generation in generations]
            if not all(await asyncio.gather(*closings)):
                raise StorageError(f"collection {name!r}: its last write does not end")
            with suppress(NotFound):  # somebody was faster
                await asyncio.to_thread(self._folder.remove_collection, name)
            return rows

    async def _set_alias(self, alias: str, name: str) -> str:
        async with self._changing:
            self._register.refuse_alias(alias, name)
            await asyncio.to_thread(self._opening.check_folder)
            return await self._aliases.set(alias, name)

    async def _delete_alias(self, alias: str) -> None:
        async with self._changing:
            await asyncio.to_thread(self._opening.check_folder)
            if not await self._aliases.delete(alias):
                raise NotFound(f"{alias!r} is not an alias", field="name")

    async def _record(self, collection: Collection, change: ManifestChange) -> Manifest:
        async with self._changing:
            self._register.refuse_unless_live(collection)
            await collection.refuse_if_down()
            manifest = change(self.manifest(collection.spec.name))
            await asyncio.to_thread(self._write_manifest, manifest)
            self._register.note(manifest)
            return manifest

    async def _open_beside(self, live: Collection, generation: Generation) -> Collection:
        async with self._changing:
            self._register.refuse_unless_live(live)
            if not await self._beside.closed(live.spec.name, generation.number):
                raise StorageError(f"collection {live.spec.name!r}: a generation is still in use")
            opened = await asyncio.to_thread(self._opening.open_generation, live.spec, generation)
            self._beside.put(opened, generation.number)
            return opened

    async def _flip(
        self, live: Collection, successor: Collection, change: ManifestChange
    ) -> Manifest:
        self._register.refuse_unless_live(live)
        name, number = live.spec.name, self.manifest(live.spec.name).generation
        manifest = await self._record(live, change)
        # No await between these: a call finds the one or the other.
        self._register.put(successor, manifest)
        live.supersede()
        self._beside.take(name, manifest.generation)
        self._beside.put(live, number)
        self._changes.begin(self._beside.closed(name, number))
        return manifest

    async def _discard(self, collection: Collection) -> None:
        async with self._changing:
            self._register.refuse_unless_live(collection)
            name = collection.spec.name
            keep = {needed.number for needed in self.manifest(name).needed}
            for number in self._beside.numbers(name):
                if number not in keep and not await self._beside.closed(name, number):
                    keep.add(number)  # the next discard, or the next start, removes it
            folder = self._folder.collection_folder(name)
            await asyncio.to_thread(remove_generations, folder, keep=keep)

    def _make_one(self, name: str, make: Callable[[], object]) -> tuple[Collection, Manifest]:
        make()
        try:
            return self._opening.open_live(name)
        except BaseException:
            self._folder.remove_collection(name)
            raise

    def _write_manifest(self, manifest: Manifest) -> None:
        write_manifest(self._folder.collection_folder(manifest.spec.name), manifest)

"""Snapshots, compaction and checks of collections that serve.

Owns these use cases. Must not know protocols, nor how files are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vecserve_server.atomic_files import sweep_leftovers
from vecserve_server.collections.checking import Checked
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.rebuilding import drop_removed
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.snapshots import Snapshot, UnreadableSnapshot
from vecserve_server.domain.validation import check_name
from vecserve_server.errors import AlreadyExists, CorruptData, FailedPrecondition
from vecserve_server.services.reindex_rules import is_running
from vecserve_server.services.repairing import is_repairable, repair
from vecserve_server.services.upkeep_jobs import UpkeepJobs
from vecserve_server.storage.files.read_limit import ReadLimit
from vecserve_server.storage.folders.manifest import Generation
from vecserve_server.storage.folders.snapshots import (
    delete_snapshot,
    find_snapshots,
    read_snapshot,
)

MAX_JOBS = 16


class UpkeepService:
    """Look after collections. Loop only."""

    def __init__(
        self, *, collections: Collections, snapshots: Path, max_jobs: int = MAX_JOBS
    ) -> None:
        """Keep snapshots below the folder `snapshots`, which is made with the first.

        With `max_jobs` pieces of work under way or waiting, more are refused.
        """
        self._collections = collections
        self._snapshots = snapshots
        self._jobs = UpkeepJobs(
            threads=collections.bounds.upkeep_threads,
            max_jobs=max_jobs,
            clock_ns=collections.clock_ns,
        )

    def open(self) -> None:
        """Remove what an interrupted snapshot left behind. Raises StorageError."""
        if self._snapshots.is_dir():
            sweep_leftovers(self._snapshots)

    async def close(self) -> None:
        """Give up what is under way."""
        await self._jobs.close()

    @property
    def jobs(self) -> int:
        """Work on whole collections that is under way or waits."""
        return len(self._jobs)

    async def settled(self) -> None:
        """Wait until no work on whole collections is under way, and none waits."""
        await self._jobs.settled()

    async def snapshot(self, name: str, snapshot: str, caller: Caller) -> Snapshot:
        """Write a consistent copy of a collection; reads and writes go on meanwhile.

        Nothing of it is left if nobody waits for it any more. Raises NotFound, AlreadyExists,
        InvalidArgument for the snapshot's name, Overloaded, StorageError.
        """
        folder = self._snapshots / check_name("name", snapshot)
        name = self._collections.get(name).spec.name

        async def work(limit: ReadLimit) -> Snapshot:
            if folder.exists():
                raise AlreadyExists(f"snapshot {snapshot!r} exists already", field="name")
            made = await self._collections.using(name, lambda found: found.snapshot(folder, limit))
            if limit():
                await asyncio.to_thread(delete_snapshot, folder)
                raise limit.error()
            return made

        return await self._jobs.share("snapshot", name, work, detail=snapshot)

    async def restore(self, snapshot: str, name: str, caller: Caller) -> int:
        """Make a collection out of a snapshot; return how many rows it has.

        No collection is left if nobody waits for it any more. Raises NotFound for the snapshot,
        AlreadyExists for the collection, FailedPrecondition for a snapshot that this vecserve
        cannot read, Overloaded, CorruptData.
        """
        folder = self._snapshots / check_name("name", snapshot)
        check_name("collection", name)
        await asyncio.to_thread(read_snapshot, folder)  # before it takes a place

        async def work(limit: ReadLimit) -> int:
            collection = await self._collections.restore(name, folder, limit)
            return collection.live_rows

        return await self._jobs.share("restore", name, work, detail=snapshot)

    async def snapshots(self, caller: Caller) -> Mapping[str, Snapshot | UnreadableSnapshot]:
        """Read the snapshots, by name."""
        return await asyncio.to_thread(find_snapshots, self._snapshots)

    async def delete_snapshot(self, snapshot: str, caller: Caller) -> None:
        """Delete a snapshot. Raises NotFound, InvalidArgument, StorageError."""
        folder = self._snapshots / check_name("name", snapshot)
        await asyncio.to_thread(delete_snapshot, folder)

    async def verify(self, name: str, caller: Caller, *, repairs: bool = False) -> Checked:
        """Check every record of a collection, what was made of them, and that rows are findable.

        If it `repairs`, what was made of the rows is made anew where it is damaged, unless rows
        are; what is left then is told. A check ends once nobody waits for it, a repair that has
        begun is completed. Raises NotFound, FailedPrecondition if the files are gone and for a
        repair while the collection is being re-indexed, Overloaded, StorageError.
        """
        name = self._collections.get(name).spec.name
        found = await self._check(name)
        if not (repairs and is_repairable(found)):
            return found
        await self._jobs.share(
            "repair",
            name,
            lambda _: self._collections.held(self._repair(name)),
            until_begun=True,
            guard=self._collections.upkeep(name),
        )
        left = await self._check(name)
        return replace(
            left, repaired=[text for text in found.problems if text not in left.problems]
        )

    async def _check(self, name: str) -> Checked:
        async def verified(collection: Collection, limit: ReadLimit) -> Checked:
            await collection.refuse_if_down()
            return await collection.verify(limit)

        async def work(limit: ReadLimit) -> Checked:
            return await self._collections.using(name, lambda found: verified(found, limit))

        return await self._jobs.share("verify", name, work)

    async def _repair(self, name: str) -> None:
        await repair(self._collections, name)

    async def compact(self, name: str, caller: Caller) -> int:
        """Rewrite a collection's files without deleted rows; return the bytes given back.

        What was deleted before the call is in none of the collection's files then, those of the
        generation before a re-index included. Its writers wait while the rows are rewritten.
        Damage beside the rows is repaired first. It ends at the next step once nobody waits for
        it. Raises NotFound, FailedPrecondition if the files are gone and while it is being
        re-indexed, CorruptData if rows are lost, Overloaded, StorageError.
        """
        name = self._collections.get(name).spec.name
        return await self._jobs.share(
            "compaction",
            name,
            lambda limit: self._compact(name, limit),
            # Who comes later may have deleted what it has passed already.
            until_begun=True,
            guard=self._collections.upkeep(name),
        )

    async def _compact(self, name: str, limit: ReadLimit) -> int:
        collection = self._collections.get(name)
        manifest = self._collections.manifest(name)
        if is_running(manifest.reindex):
            raise FailedPrecondition(
                f"{name!r} is being re-indexed; wait for it", field="collection"
            )
        await collection.refuse_if_down()
        before = await collection.disk_bytes()
        await self._collections.discard(collection)
        collection = await self._undamaged(collection, limit)
        if manifest.previous is not None:
            await self._compact_previous(collection, manifest.previous.generation, limit)
        await collection.compact_index(limit)
        async with collection.writers_held():
            await collection.compact_rows(limit)
        return max(0, before - await collection.disk_bytes())

    async def _undamaged(self, collection: Collection, limit: ReadLimit) -> Collection:
        """Make anew what is damaged beside the rows: rewriting a file copies damage, too."""
        found = await collection.verify_rows(limit)
        if found.has_lost_rows:
            raise CorruptData(
                f"collection {collection.spec.name!r}: rows cannot be read, and rewriting would "
                f"forget them: {found.problems[0]}"
            )
        if is_repairable(found):
            return await self._collections.held(repair(self._collections, collection.spec.name))
        return collection

    async def _compact_previous(
        self, live: Collection, generation: Generation, limit: ReadLimit
    ) -> None:
        """Remove what is gone from the generation before, too; a way back copies what is new."""
        previous = await self._collections.open_generation(live, generation)
        try:
            await drop_removed(source=live, target=previous)
            await previous.compact_index(limit)
            await previous.compact_rows(limit)
        finally:
            await self._collections.release(previous)

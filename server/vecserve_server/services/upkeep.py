"""Snapshots, compaction and checks of collections that serve.

Owns these use cases. Must not know protocols, nor how files are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vecserve_server.atomic_files import sweep_leftovers
from vecserve_server.errors import AlreadyExists, CorruptData, FailedPrecondition
from vecserve_server.services.checking import Checked
from vecserve_server.services.collection import Collection
from vecserve_server.services.collections import Collections
from vecserve_server.services.rebuilding import drop_removed
from vecserve_server.services.reindex_rules import is_running
from vecserve_server.services.repairing import is_repairable, repair
from vecserve_server.services.validation import check_name
from vecserve_server.storage.manifest import Generation
from vecserve_server.storage.snapshots import Snapshot, delete_snapshot, find_snapshots


class UpkeepService:
    """Look after collections. Loop only."""

    def __init__(self, *, collections: Collections, snapshots: Path) -> None:
        """Keep snapshots below the folder `snapshots`, which is made with the first."""
        self._collections = collections
        self._snapshots = snapshots

    def open(self) -> None:
        """Remove what an interrupted snapshot left behind. Raises StorageError."""
        if self._snapshots.is_dir():
            sweep_leftovers(self._snapshots)

    async def snapshot(self, name: str, snapshot: str) -> Snapshot:
        """Write a consistent copy of a collection; reads and writes go on meanwhile.

        Raises NotFound, AlreadyExists, InvalidArgument for the snapshot's name, StorageError.
        """
        folder = self._snapshots / check_name("name", snapshot)
        if folder.exists():
            raise AlreadyExists(f"name: snapshot {snapshot!r} exists already")
        return await self._collections.using(name, lambda found: found.snapshot(folder))

    async def restore(self, snapshot: str, name: str) -> int:
        """Make a collection out of a snapshot; return how many rows it has.

        Raises NotFound for the snapshot, AlreadyExists for the collection, CorruptData.
        """
        folder = self._snapshots / check_name("name", snapshot)
        check_name("collection", name)
        collection = await self._collections.restore(name, folder)
        return collection.live_rows

    async def snapshots(self) -> Mapping[str, Snapshot]:
        """Read the snapshots, by name; damaged ones are left out."""
        return await asyncio.to_thread(find_snapshots, self._snapshots)

    async def delete_snapshot(self, snapshot: str) -> None:
        """Delete a snapshot. Raises NotFound, InvalidArgument, StorageError."""
        folder = self._snapshots / check_name("name", snapshot)
        await asyncio.to_thread(delete_snapshot, folder)

    async def verify(self, name: str, *, repairs: bool = False) -> Checked:
        """Check every record of a collection, what was made of them, and that rows are findable.

        If it `repairs`, what was made of the rows is made anew where it is damaged, unless rows
        are; what is left then is told. Raises NotFound, FailedPrecondition for a repair while the
        collection is being re-indexed, StorageError.
        """
        found = await self._collections.using(name, lambda found: found.verify())
        if not (repairs and is_repairable(found)):
            return found
        await self._collections.held(self._repair(self._collections.get(name).spec.name))
        left = await self._collections.using(name, lambda found: found.verify())
        return replace(
            left, repaired=[text for text in found.problems if text not in left.problems]
        )

    async def _repair(self, name: str) -> None:
        async with self._collections.upkeep(name):
            await repair(self._collections, name)

    async def compact(self, name: str) -> int:
        """Rewrite a collection's files without deleted rows; return the bytes given back.

        What was deleted is in none of the collection's files then, those of the generation before
        a re-index included. Its writers wait while the rows are rewritten. Damage beside the rows
        is repaired first. Raises NotFound, FailedPrecondition while it is being re-indexed,
        CorruptData if rows are lost, StorageError.
        """
        collection = self._collections.get(name)
        return await self._collections.held(self._compact(collection.spec.name))

    async def _compact(self, name: str) -> int:
        async with self._collections.upkeep(name):
            collection = self._collections.get(name)
            manifest = self._collections.manifest(name)
            if is_running(manifest.reindex):
                raise FailedPrecondition(f"collection: {name!r} is being re-indexed; wait for it")
            before = await collection.disk_bytes()
            await self._collections.discard(collection)
            collection = await self._undamaged(collection)
            if manifest.previous is not None:
                await self._compact_previous(collection, manifest.previous.generation)
            await collection.compact_index()
            try:
                await collection.gate.close()
                await collection.compact_rows()
            finally:
                collection.gate.open()
            return max(0, before - await collection.disk_bytes())

    async def _undamaged(self, collection: Collection) -> Collection:
        """Make anew what is damaged beside the rows: rewriting a file copies damage, too."""
        found = await collection.verify_rows()
        if found.has_lost_rows:
            raise CorruptData(
                f"collection {collection.spec.name!r}: rows cannot be read, and rewriting would "
                f"forget them: {found.problems[0]}"
            )
        if is_repairable(found):
            return await repair(self._collections, collection.spec.name)
        return collection

    async def _compact_previous(self, live: Collection, generation: Generation) -> None:
        """Remove what is gone from the generation before, too; a way back copies what is new."""
        previous = await self._collections.open_generation(live, generation)
        try:
            await drop_removed(source=live, target=previous)
            await previous.compact_index()
            await previous.compact_rows()
        finally:
            await self._collections.release(previous)

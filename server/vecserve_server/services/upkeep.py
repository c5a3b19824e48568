"""Snapshots, compaction and checks of collections that serve.

Owns these use cases. Must not know protocols, nor how files are written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vecserve_server.atomic_files import sweep_leftovers
from vecserve_server.errors import AlreadyExists, FailedPrecondition
from vecserve_server.services.checking import Checked
from vecserve_server.services.collection import Collection
from vecserve_server.services.collections import Collections
from vecserve_server.services.reindex_rules import is_running
from vecserve_server.services.validation import check_name
from vecserve_server.storage.manifest import Generation
from vecserve_server.storage.snapshots import Snapshot


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

    async def verify(self, name: str) -> Checked:
        """Check every record of a collection and that every row is findable."""
        return await self._collections.using(name, lambda found: found.verify())

    async def compact(self, name: str) -> int:
        """Rewrite a collection's files without deleted rows; return the bytes given back.

        What was deleted is in none of the collection's files then, those of the generation before
        a re-index included. Its writers wait while the rows are rewritten. Raises NotFound,
        FailedPrecondition while it is being re-indexed, StorageError.
        """
        collection = self._collections.get(name)
        return await self._collections.held(self._compact(collection))

    async def _compact(self, collection: Collection) -> int:
        name = collection.spec.name
        async with self._collections.upkeep(name):
            manifest = self._collections.manifest(name)
            if is_running(manifest.reindex):
                raise FailedPrecondition(f"collection: {name!r} is being re-indexed; wait for it")
            before = await collection.disk_bytes()
            if manifest.previous is not None:
                await self._compact_previous(collection, manifest.previous.generation)
            await collection.compact_index()
            await collection.gate.close()
            try:
                await collection.compact_rows()
            finally:
                collection.gate.open()
            return max(0, before - await collection.disk_bytes())

    async def _compact_previous(self, live: Collection, generation: Generation) -> None:
        """Remove what is gone from the generation before, too; a way back copies what is new."""
        previous = await self._collections.open_generation(live, generation)
        try:
            gone = np.setdiff1d(await previous.seqs(), await live.seqs(), assume_unique=True)
            await previous.replicate({}, gone.tolist(), last_seq=0)
            await previous.compact_index()
            await previous.compact_rows()
        finally:
            await self._collections.release(previous)

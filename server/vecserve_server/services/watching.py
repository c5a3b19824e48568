"""A look at the files of every collection now and then.

A write notices by itself that its file is gone; this is for the collections that nobody writes to.
Owns the rhythm and what the log is told. Must not know how files are looked at. Loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.standing import Standing
from vecserve_server.domain.collections import CollectionState
from vecserve_server.errors import NotFound, VecserveError
from vecserve_server.observability.logging import get_logger, log_event


class Watching:
    """Keeps each collection's standing up to date."""

    def __init__(self, *, collections: Collections, every_s: float) -> None:
        self._collections = collections
        self._every_s = every_s
        self._log = get_logger("storage")
        self._task: asyncio.Task[None] | None = None
        # What the log was told of, by name.
        self._told: dict[str, Standing] = {}

    def start(self) -> Callable[[], Awaitable[None]]:
        """Begin to look; return what ends it."""
        self._task = asyncio.create_task(self._run(), name="watch-collections")
        return self.close

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def look(self) -> None:
        """Look at every collection once, and say in the log what has changed."""
        collections = self._collections.all()
        standings = await asyncio.to_thread(_look_at, collections)
        told: dict[str, Standing] = {}
        serving = set(map(id, self._collections.all()))
        for collection, standing in zip(collections, standings, strict=True):
            if id(collection) not in serving:
                continue  # it was dropped or re-indexed meanwhile, and its files with it
            collection.standing = told[collection.spec.name] = standing
            self._tell(collection.spec.name, standing)
            if standing.state is not CollectionState.DOWN:
                await self._keep_manifest(collection)
        self._told = told

    async def _keep_manifest(self, collection: Collection) -> None:
        """Write anew what the server knows and the next start would refuse to do without."""
        if await asyncio.to_thread(collection.has_manifest):
            return
        name = collection.spec.name
        try:
            await self._collections.record(collection, lambda manifest: manifest)
        except NotFound:
            pass  # it was dropped meanwhile
        except VecserveError as error:
            log_event(self._log, logging.ERROR, "manifest_lost", collection=name, error=str(error))
        else:
            log_event(self._log, logging.WARNING, "manifest_rewritten", collection=name)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the next look may go better
                self._log.exception("watch_failed")

    def _tell(self, name: str, standing: Standing) -> None:
        before = self._told.get(name, Standing())
        if standing == before:
            return
        level = logging.INFO if standing.state is CollectionState.SERVING else logging.ERROR
        log_event(
            self._log,
            level,
            "collection_" + standing.state,
            collection=name,
            reason=standing.reason or "its files are back",
        )


def _look_at(collections: list[Collection]) -> list[Standing]:
    return [collection.look() for collection in collections]

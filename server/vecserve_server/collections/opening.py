"""From a collection's folder to a `Collection` that serves: rows, index and writer put together.

Owns which files a generation has and what is shared between all of them. Must not know which
collections are open. Blocking: for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from vecserve_server.collections.collection import MAX_READ_S, Collection
from vecserve_server.collections.read_shares import ReadShares
from vecserve_server.collections.word_filling import WordFilling
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.errors import FailedPrecondition, StoreGone
from vecserve_server.index.opening import Indexes
from vecserve_server.storage.files.open_stores import OpenStores
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.generations import (
    ROWS_FILE,
    SEGMENTS_FOLDER,
    make_generation,
    open_layout,
)
from vecserve_server.storage.folders.manifest import Generation, Manifest
from vecserve_server.storage.rows.row_log import RowLog
from vecserve_server.storage.rows.writer import RowWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What all collections share."""

    max_read_s: float = MAX_READ_S
    search_threads: int = 2
    """Threads that read one collection at a time."""
    all_search_threads: int = 8
    """Threads that read all of them."""
    upkeep_threads: int = 2
    open_stores: int = 64
    """Files of rows that are open at a time."""


def readers_of(search_threads: int) -> int:
    """Count the connections that read one collection: searches, and a check beside them."""
    return search_threads + 1


DEFAULT_BOUNDS = Bounds()


class Opening:
    """Opens generations of collections, from any thread."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        writer: RowWriter,
        reads: ReadShares,
        upkeep_pool: Executor,
        readers: int,
        stores: OpenStores,
        indexes: Indexes,
        clock_ns: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        max_read_s: float,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._reads = reads
        self._upkeep_pool = upkeep_pool
        self._readers = readers
        self._stores = stores
        self._indexes = indexes
        self._clock_ns = clock_ns
        self._loop = loop
        self._max_read_s = max_read_s
        self._filling = WordFilling()

    def check_folder(self) -> None:
        """Raise FailedPrecondition unless the data folder is where it was opened."""
        try:
            self._folder.check_in_place()
        except StoreGone as error:
            raise FailedPrecondition(
                "the data folder is not where the server opened it; put it back, or restart the "
                "server"
            ) from error

    def open_live(self, name: str) -> tuple[Collection, Manifest]:
        """Bring a collection's folder up to date and open the generation that serves.

        Raises CorruptData, ConfigError, StorageError.
        """
        manifest = open_layout(self._folder.collection_folder(name))
        return self.open_generation(manifest.spec, manifest.live), manifest

    def open_generation(self, spec: CollectionSpec, generation: Generation) -> Collection:
        """Open or make a generation of the collection that `spec` describes.

        It declares the same fields as the others. Raises CorruptData, ConfigError, StorageError.
        """
        spec = replace(spec, model=generation.model, dim=generation.dim)
        folder = make_generation(self._folder.collection_folder(spec.name), generation.number)
        log = RowLog.open(
            folder / ROWS_FILE,
            dim=spec.dim,
            model_digest=spec.model.digest,
            readers=self._readers,
            model_name=spec.model.name,
            model_version=spec.model.version,
            fields=spec.fields,
            text_analysis=spec.text_analysis,
            stores=self._stores,
        )
        try:
            index = self._indexes.open(folder / SEGMENTS_FOLDER, dim=spec.dim, rows=log)
        except BaseException:
            log.close()
            raise
        if log.lacks_words:
            self._filling.take(folder / ROWS_FILE, log)
        return Collection(
            spec=spec,
            folder=folder,
            log=log,
            index=index,
            writer=self._writer,
            reads=self._reads,
            upkeep_pool=self._upkeep_pool,
            clock_ns=self._clock_ns,
            loop=self._loop,
            max_read_s=self._max_read_s,
        )

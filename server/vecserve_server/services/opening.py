"""From a collection's folder to a `Collection` that serves: rows, index and writer put together.

Owns which files a generation has and what is shared between all of them. Must not know which
collections are open. Blocking: for a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

from vecserve_server.domain import CollectionSpec
from vecserve_server.index.opening import Indexes
from vecserve_server.services.collection import Collection
from vecserve_server.services.word_filling import WordFilling
from vecserve_server.storage.data_folder import DataFolder
from vecserve_server.storage.generations import (
    ROWS_FILE,
    SEGMENTS_FOLDER,
    make_generation,
    open_layout,
)
from vecserve_server.storage.manifest import Generation, Manifest
from vecserve_server.storage.row_log import RowLog
from vecserve_server.storage.writer import RowWriter


class Opening:
    """Opens generations of collections, from any thread."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        writer: RowWriter,
        search_pool: Executor,
        readers: int,
        indexes: Indexes,
        clock_ns: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        max_read_s: float,
    ) -> None:
        self._folder = folder
        self._writer = writer
        self._search_pool = search_pool
        self._readers = readers
        self._indexes = indexes
        self._clock_ns = clock_ns
        self._loop = loop
        self._max_read_s = max_read_s
        self._filling = WordFilling()

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
            search_pool=self._search_pool,
            clock_ns=self._clock_ns,
            loop=self._loop,
            max_read_s=self._max_read_s,
        )

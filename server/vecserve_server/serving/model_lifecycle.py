"""The life of every version: load and warm up, publish, retire, drain its leases, close.

Owns every change of the records. A version serves until its successor is ready. Must not know who
asks for a change, nor what kinds of models there are. Loop only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from vecserve.inference import model_config_pb2
from vecserve_server.errors import ModelError, Overloaded, VecserveError
from vecserve_server.model_files.model_folders import (
    FoundModel,
    TemporaryRoot,
    chosen_versions,
    no_version_reason,
    parse_config,
    read_config,
)
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.observability.model_statistics import StatisticsTable
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.model_loading import ModelLoading
from vecserve_server.serving.model_record import ModelRecord
from vecserve_server.serving.model_versions import LoadedVersion, VersionSource

CLOSE_TIMEOUT_S = 5.0
T = TypeVar("T")


def _nothing() -> None:
    """Be told for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedModel:
    """What is to be served of one model."""

    found: FoundModel
    config_json: str | None = None
    """Stands in for the configuration in the folder."""
    temporary: TemporaryRoot | None = None
    on_begin: Callable[[], None] = _nothing
    """Called when the first of its versions begins to load; it may have to wait for others."""

    def config(self) -> model_config_pb2.ModelConfig:
        """Return the configuration to load it with. Reads files."""
        if self.config_json is None:
            return read_config(self.found)
        return parse_config(self.found.name, self.config_json)

    def signature(self, version: str) -> str:
        """Return what changes when another load would give something else."""
        config = hashlib.blake2b((self.config_json or "").encode(), digest_size=16).hexdigest()
        return f"{self.found.versions[version]}-{config}"


class ModelLifecycle:
    """The changes that models go through."""

    def __init__(
        self,
        *,
        loading: ModelLoading,
        catalog: Catalog,
        statistics: StatisticsTable,
        folder_pool: Executor,
        drain_s: float,
        in_use: Callable[[str], Collection[str]] = lambda _: (),
    ) -> None:
        """Let requests in progress keep a retired version open for `drain_s`.

        The versions of a model that are `in_use` serve on although its policy admits others: rows
        were embedded with them.
        """
        self._in_use = in_use
        self._loading = loading
        self._catalog = catalog
        self._statistics = statistics
        self._folder_pool = folder_pool
        self._drain_s = drain_s
        self._log = get_logger("models")
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def models(self) -> Mapping[str, ModelRecord]:
        """Every record by name; who looks at them changes nothing."""
        return self._catalog.records

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that ends with the server at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        # Whoever asked may have gone away; what a model lacks is noted with it already.
        error = task.exception()
        if error is not None and not isinstance(error, VecserveError):
            self._log.error("model_change_failed", exc_info=error)

    async def in_pool(self, work: Callable[[], T]) -> T:
        """Read folders in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._folder_pool, work)

    def refuse_too_large(self, name: str, sizes: Mapping[str, int]) -> None:
        """Raise ModelLimit where files of these sizes take more memory than there is."""
        self._loading.refuse_too_large(name, sizes)

    async def close(self, timeout_s: float) -> None:
        """End what was spawned, and close every version whether it is in use or not."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loaded = [
            entry.loaded
            for record in self.models.values()
            for entry in record.versions.values()
            if entry.loaded is not None
        ]
        self._catalog.records.clear()
        await asyncio.gather(*(version.close(timeout_s) for version in loaded))

    async def unload(self, name: str, *, gone: bool = False) -> None:
        """Retire all versions of a model, and wait until they are closed.

        `gone` says that its folder is, too: nothing is remembered of it.
        """
        record = self.models.get(name)
        if record is None:
            return
        async with record.lock:
            if gone:
                record.found, record.is_listed = {}, False
            drains = [
                self._retire(record, version, loaded)
                for version, loaded in record.serving().items()
            ]
            record.config_json = None
            self._forget_gone(record)
        await asyncio.gather(*drains)
        self._drop_if_gone(record)

    async def apply(self, wanted: WantedModel, *, retry: bool = False) -> None:
        """Bring what serves of a model in line with what is wanted; raises the first failure.

        What failed before is tried again only if it has changed, or `retry` is set. A configuration
        that stood in for the folder's goes on to do so until the model is unloaded. Nothing is
        remembered of a model that failed and is not in the repository.
        """
        name = wanted.found.name
        while True:
            record = self._catalog.records.setdefault(name, ModelRecord(name))
            try:
                async with record.lock:
                    if self.models.get(name) is record:  # it was not dropped meanwhile
                        await self._apply(record, wanted, retry)
                        return
            finally:
                self._drop_if_gone(record)

    async def _apply(self, record: ModelRecord, wanted: WantedModel, retry: bool) -> None:
        name = record.name
        if wanted.config_json is None and wanted.temporary is None:
            wanted = replace(wanted, config_json=record.config_json)
        record.found = wanted.found.versions if wanted.temporary is None else {}
        record.is_listed = wanted.temporary is None
        try:
            proto = await self.in_pool(wanted.config)
            record.reason = ""
            versions = chosen_versions(proto, wanted.found.versions)
            if not versions:
                raise ModelError(no_version_reason(wanted.found))
        except VecserveError as error:
            self._note(record, "", error)
            raise
        record.chosen = frozenset(versions)
        failures = [
            failure
            for version in versions
            if (failure := await self._bring_up(record, wanted, proto, version, retry))
        ]
        for version in sorted(set(wanted.found.versions) & set(self._in_use(name))):
            if version not in versions:  # not asked for: where it fails, it is noted only
                await self._bring_up(record, wanted, proto, version, retry)
        self._retire_unused(record)
        self._forget_gone(record)
        if failures:
            raise failures[0]
        record.config_json = wanted.config_json if wanted.temporary is None else None

    def release(self) -> None:
        """Retire versions that serve only because they were in use."""
        for record in self.models.values():
            if not record.lock.locked():  # whoever has the lock will do it
                self._retire_unused(record)

    def _retire_unused(self, record: ModelRecord) -> None:
        """Retire what is neither chosen nor in use, once all that is chosen serves."""
        serving = record.serving()
        needed = record.chosen | set(self._in_use(record.name))
        for version, loaded in serving.items():
            if version not in needed and record.chosen <= serving.keys():
                self._retire(record, version, loaded)

    async def _bring_up(
        self,
        record: ModelRecord,
        wanted: WantedModel,
        proto: model_config_pb2.ModelConfig,
        version: str,
        retry: bool,
    ) -> VecserveError | None:
        """Load a version unless that has been done; publish it, or return why it failed."""
        entry, signature = record.version(version), wanted.signature(version)
        if entry.attempted == signature and not (retry and entry.loaded is None):
            return None
        entry.attempted, entry.loading = signature, True
        source = VersionSource(
            root=wanted.found.root, name=record.name, version=version, proto=proto
        )
        try:
            loaded = await self._loading.load(source, wanted.on_begin)
        except VecserveError as error:
            if isinstance(error, Overloaded):
                entry.attempted = None  # it was not even tried
            self._note(record, version, error)
            return error
        except BaseException:
            entry.attempted = None
            raise
        finally:
            entry.loading = False
        self._publish(record, version, self._kept_with(wanted.temporary, loaded))
        return None

    def _publish(self, record: ModelRecord, version: str, loaded: LoadedVersion) -> None:
        """Let a version serve from now on, in place of the one that has its number."""
        entry = record.version(version)
        if entry.loaded is not None:
            self._let_go(record, version, entry.loaded)
        entry.reason = ""
        self._catalog.put(loaded)
        log_event(
            self._log,
            logging.INFO,
            "model_loaded",
            model=record.name,
            version=version,
            digest=loaded.text.text.ref.digest if loaded.text else loaded.digest,
        )

    def _retire(
        self, record: ModelRecord, version: str, loaded: LoadedVersion
    ) -> asyncio.Task[None]:
        """Take a version out of service at once."""
        entry = record.version(version)
        entry.loaded, entry.attempted, entry.reason = None, None, "unloaded"
        return self._let_go(record, version, loaded)

    def _let_go(
        self, record: ModelRecord, version: str, loaded: LoadedVersion
    ) -> asyncio.Task[None]:
        """Close what served of a version when it is not in use any more."""
        record.version(version).draining += 1
        return self.spawn(self._drain(record, version, loaded))

    async def _drain(self, record: ModelRecord, version: str, loaded: LoadedVersion) -> None:
        entry = record.version(version)
        try:
            if not await loaded.leases.drained(self._drain_s):
                self._log_state(record, version, logging.WARNING, "model_still_in_use")
        finally:  # at the end of the server, too
            await loaded.close(CLOSE_TIMEOUT_S)
            entry.draining -= 1
        if entry.loaded is None:
            self._statistics.of(record.name, version).closed()
        self._log_state(record, version, logging.INFO, "model_closed")
        self._forget_gone(record)
        self._drop_if_gone(record)

    def _forget_gone(self, record: ModelRecord) -> None:
        """Drop what is neither in use nor in the repository any more."""
        for version in list(record.versions):
            if record.forget(version):
                self._statistics.forget(record.name, version)

    def _drop_if_gone(self, record: ModelRecord) -> None:
        if record.versions or record.is_listed or record.lock.locked():
            return
        if self.models.get(record.name) is record:
            del self._catalog.records[record.name]
            self._loading.forget(record.name)

    def _note(self, record: ModelRecord, version: str, error: VecserveError) -> None:
        if version:
            record.version(version).reason = str(error)
        else:
            record.reason = str(error)
        self._log_state(record, version, logging.ERROR, "model_not_loaded", reason=error)

    def _log_state(
        self, record: ModelRecord, version: str, level: int, event: str, **more: object
    ) -> None:
        log_event(self._log, level, event, model=record.name, version=version, **more)

    def _kept_with(self, temporary: TemporaryRoot | None, loaded: LoadedVersion) -> LoadedVersion:
        """Keep the folder that a version was loaded from as long as the version."""
        if temporary is None:
            return loaded
        temporary.acquire()

        async def close(timeout_s: float) -> bool:
            try:
                return await loaded.close(timeout_s)
            finally:
                await self.in_pool(temporary.release)

        return replace(loaded, close=close)

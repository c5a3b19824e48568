"""Re-indexing: a new generation of a collection with other vectors, while the old one serves.

Owns what starts one, its steps and their record in the manifest, and going back. A process that
ends in the middle goes on at the next start. Must not know protocols, nor how rows are copied.
Loop only.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from vecserve_server.domain import ModelRef
from vecserve_server.errors import FailedPrecondition, NotFound, StorageError, VecserveError
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.services.catalog import Catalog, ServedModel
from vecserve_server.services.collection import Collection
from vecserve_server.services.collections import Collections, ManifestChange
from vecserve_server.services.comparing import compare
from vecserve_server.services.embedding import EmbeddingService
from vecserve_server.services.rebuilding import Rebuild
from vecserve_server.services.reindex_rules import (
    check_comparison,
    check_sources,
    is_running,
    next_number,
    serving,
    succeeds,
)
from vecserve_server.services.row_embedding import rows_with
from vecserve_server.settings import ReindexSettings
from vecserve_server.storage.manifest import Generation, Manifest, Reindex, Retired

SWITCH_TIMEOUT_S = 30.0
UPKEEP_S = 3600.0
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a re-index is."""

    collection: str
    reindex: Reindex
    done_rows: int
    total_rows: int


@dataclass(slots=True, kw_only=True)
class _Run:
    task: asyncio.Task[None]
    target: Collection | None = None


class ReindexingService:
    """Every re-index, at most one for each collection."""

    def __init__(
        self,
        *,
        collections: Collections,
        embedding: EmbeddingService,
        catalog: Catalog,
        settings: ReindexSettings,
        release_model: Callable[[str], None],
        wall_clock_ms: Callable[[], int],
    ) -> None:
        """Call `release_model` with a model's name when fewer of its versions may be needed."""
        self._collections = collections
        self._embedding = embedding
        self._catalog = catalog
        self._settings = settings
        self._release_model = release_model
        self._wall_clock_ms = wall_clock_ms
        self._log = get_logger("reindex")
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Go on with what was interrupted; begin to follow the models and the calendar."""
        for collection in self._collections.all():
            name = collection.spec.name
            reindex = self._collections.manifest(name).reindex
            if reindex is not None and is_running(reindex):
                self._begin(name, self._build(name, reindex))
        self._catalog.watch(self._model_came)
        for served in self._catalog.all():
            self._model_came(served)
        self._spawn(self._keep_house())

    async def close(self) -> None:
        """Stop; what is not done goes on at the next start."""
        tasks = [*self._tasks, *(run.task for run in self._runs.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, name: str, model: str) -> str:
        """Begin to embed a collection anew; return the id of the re-index.

        An empty `model` asks for the latest version of the collection's model. Raises NotFound,
        and FailedPrecondition if one is running or rows do not keep their texts.
        """
        collection = self._collections.get(name)
        served = self._catalog.get(model or collection.spec.model.name)
        return await self._start(collection, served)

    def get(self, reindex_id: str) -> Progress:
        """Tell how far a re-index is; the last one of each collection is known."""
        name, manifest = self._find(reindex_id)
        assert manifest.reindex is not None
        run = self._runs.get(name)
        total = self._collections.get(name).live_rows
        done = run.target.live_rows if run is not None and run.target is not None else 0
        if manifest.reindex.state == "done":
            done = total
        return Progress(
            collection=name, reindex=manifest.reindex, done_rows=min(done, total), total_rows=total
        )

    async def cancel(self, reindex_id: str) -> None:
        """Stop a re-index, or take one back that is done; the generation before serves then.

        Raises NotFound, and FailedPrecondition if the generation before or its model is gone.
        """
        name, _ = self._find(reindex_id)
        run = self._runs.get(name)
        if run is not None:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)
        name, manifest = self._find(reindex_id)
        reindex = manifest.reindex
        assert reindex is not None
        if reindex.state == "done":
            await asyncio.shield(self._begin(name, self._take_back(name)))
        elif is_running(reindex):
            await self._stopped(name, replace(reindex, state="cancelled"))

    async def _start(self, collection: Collection, served: ServedModel) -> str:
        name, ref = collection.spec.name, served.text.ref
        manifest = self._collections.manifest(name)
        if name in self._runs:
            raise FailedPrecondition(f"collection: {name!r} is being re-indexed already")
        if ref.digest != collection.spec.model.digest:
            await check_sources(collection)
        reindex = Reindex(
            id=uuid.uuid4().hex,
            generation=Generation(
                number=next_number(manifest),
                model=ref,
                dim=self._dim(collection, served),
            ),
        )

        def change(now: Manifest) -> Manifest:
            if is_running(now.reindex):  # another call was faster
                raise FailedPrecondition(f"collection: {name!r} is being re-indexed already")
            return replace(now, reindex=reindex)

        await self._collections.record(collection, change)
        self._begin(name, self._build(name, reindex))
        return reindex.id

    def _dim(self, collection: Collection, served: ServedModel) -> int:
        """Keep a dim that was chosen to be smaller than the model's."""
        ours, theirs = collection.spec.dim, served.text.config.dim
        try:
            full = self._served(collection.spec.model).text.config.dim
        except VecserveError:
            full = ours
        return min(ours, theirs) if ours < full else theirs

    def _served(self, ref: ModelRef) -> ServedModel:
        served = self._catalog.with_weights(ref)
        if served.text.ref.digest != ref.digest:
            raise FailedPrecondition(
                f"model {ref.name!r} version {ref.version} ({ref.digest[:12]}) is not served"
            )
        return served

    async def _build(self, name: str, reindex: Reindex) -> None:
        """Build the new generation and let it serve, or note why that failed."""
        try:
            live = self._collections.get(name)
            self._say("reindex_started", name, reindex)
            await self._copy_and_flip(live, reindex)
        except VecserveError as error:
            self._say("reindex_failed", name, reindex, reason=error)
            await self._stopped(name, replace(reindex, state="failed", message=str(error)))

    async def _copy_and_flip(self, live: Collection, reindex: Reindex) -> None:
        name, served = live.spec.name, self._served(reindex.generation.model)
        target = await self._collections.open_generation(live, reindex.generation)
        self._runs[name].target = target
        rebuild = self._rebuild(live, target, served)
        try:
            await rebuild.begin()
            await rebuild.follow()
            evaluating = replace(reindex, state="evaluating")
            await self._collections.record(live, lambda m: replace(m, reindex=evaluating))
            comparison = await compare(live, target)
            check_comparison(comparison, min_overlap=self._settings.min_overlap)
            await rebuild.follow()
            done = replace(
                reindex,
                state="done",
                self_hit_rate=comparison.self_hit_rate,
                overlap=comparison.overlap,
            )
            await self._switch(live, target, rebuild, self._succession(done))
        finally:
            rebuild.end()
            await self._collections.release(target)
        self._say(
            "reindex_done", name, done, self_hit_rate=done.self_hit_rate, overlap=done.overlap
        )
        await self._expire(name)

    async def _take_back(self, name: str) -> None:
        """Bring the generation before up to date and let it serve again."""
        async with self._collections.upkeep(name):
            await self._return_to_previous(name, self._collections.manifest(name))

    async def _return_to_previous(self, name: str, manifest: Manifest) -> None:
        reindex, previous = manifest.reindex, manifest.previous
        if previous is None or reindex is None:
            raise FailedPrecondition(
                f"collection: the generation before the last re-index of {name!r} is gone; "
                f"reindex.keep_days = {self._settings.keep_days:g}"
            )
        live = self._collections.get(name)
        served = self._served(previous.generation.model)
        target = await self._collections.open_generation(live, previous.generation)
        rebuild = self._rebuild(live, target, served)
        taken_back = replace(reindex, state="cancelled", message="taken back")

        def change(now: Manifest) -> Manifest:
            return replace(serving(now, previous.generation), previous=None, reindex=taken_back)

        try:
            await rebuild.begin()
            await rebuild.follow()
            await self._switch(live, target, rebuild, change)
        finally:
            rebuild.end()
            await self._collections.release(target)
        self._say("reindex_taken_back", name, taken_back)
        await self._discard(name)

    def _rebuild(self, live: Collection, target: Collection, served: ServedModel) -> Rebuild:
        same_vectors = live.spec.model.digest == target.spec.model.digest
        make_rows = rows_with(
            self._embedding, None if same_vectors else served, dim=target.spec.dim
        )
        return Rebuild(source=live, target=target, make_rows=make_rows)

    async def _switch(
        self, live: Collection, target: Collection, rebuild: Rebuild, change: ManifestChange
    ) -> None:
        """Hold the writers back, copy the rest, flip. Once begun it comes to its end."""

        async def work() -> None:
            try:
                async with asyncio.timeout(SWITCH_TIMEOUT_S):
                    await live.gate.close()
                    await rebuild.finish()
                await self._collections.flip(live, target, change)
            except TimeoutError:
                raise StorageError(f"the flip takes longer than {SWITCH_TIMEOUT_S:g} s") from None
            finally:
                live.gate.open()

        await self._collections.held(work())

    def _succession(self, done: Reindex) -> ManifestChange:
        def change(now: Manifest) -> Manifest:
            retired = Retired(generation=now.live, retired_unix_ms=self._wall_clock_ms())
            return replace(serving(now, done.generation), previous=retired, reindex=done)

        return change

    async def _stopped(self, name: str, reindex: Reindex) -> None:
        """Note how a re-index ended and remove what it built."""
        try:
            live = self._collections.get(name)
            await self._collections.record(live, lambda m: replace(m, reindex=reindex))
            await self._discard(name)
        except NotFound:
            return  # the collection was dropped, and all that there was with it
        except VecserveError as error:
            self._say("reindex_not_cleaned_up", name, reindex, reason=error)

    async def _discard(self, name: str) -> None:
        collection = self._collections.get(name)
        await self._collections.discard(collection)
        self._release_model(collection.spec.model.name)

    def _model_came(self, served: ServedModel) -> None:
        """Re-index the collections of a model of which a newer version serves now."""
        ref = served.text.ref
        if self._settings.on_new_version == "ignore":
            return
        for collection in self._collections.all():
            reindex = self._collections.manifest(collection.spec.name).reindex
            if not succeeds(ref, collection.spec.model) or collection.spec.name in self._runs:
                continue
            if reindex is not None and reindex.generation.model.digest == ref.digest:
                continue  # it failed, or somebody did not want it
            self._spawn(self._start_by_itself(collection, served))

    async def _start_by_itself(self, collection: Collection, served: ServedModel) -> None:
        try:
            await self._start(collection, served)
        except VecserveError as error:
            log_event(
                self._log,
                logging.WARNING,
                "reindex_not_started",
                collection=collection.spec.name,
                reason=error,
            )

    async def _keep_house(self) -> None:
        while True:
            for collection in self._collections.all():
                await self._expire(collection.spec.name)
            await asyncio.sleep(UPKEEP_S)

    async def _expire(self, name: str) -> None:
        """Remove the generation before once nobody may go back to it any more."""
        try:
            previous = self._collections.manifest(name).previous
            kept_ms = self._settings.keep_days * DAY_MS
            if previous is None or previous.retired_unix_ms + kept_ms > self._wall_clock_ms():
                return
            async with self._collections.upkeep(name):
                live = self._collections.get(name)
                await self._collections.record(live, lambda m: replace(m, previous=None))
                await self._discard(name)
        except (KeyError, VecserveError):
            self._log.debug("expiry_failed", exc_info=True)

    def _find(self, reindex_id: str) -> tuple[str, Manifest]:
        for collection in self._collections.all():
            manifest = self._collections.manifest(collection.spec.name)
            if manifest.reindex is not None and manifest.reindex.id == reindex_id:
                return collection.spec.name, manifest
        raise NotFound(f"reindex_id: {reindex_id!r} is not the last re-index of a collection")

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"reindex-{name}")
        self._runs[name] = _Run(task=task)
        task.add_done_callback(lambda done: self._ended(name, done))
        return task

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._runs.get(name) is not None and self._runs[name].task is task:
            del self._runs[name]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, VecserveError):
            self._log.error("reindex_broke", exc_info=error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _say(self, event: str, name: str, reindex: Reindex, **more: object) -> None:
        log_event(
            self._log,
            logging.INFO,
            event,
            collection=name,
            id=reindex.id,
            model=reindex.generation.model.name,
            version=reindex.generation.model.version,
            **more,
        )

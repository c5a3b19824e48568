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
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections, ManifestChange
from vecserve_server.collections.comparing import compare
from vecserve_server.collections.rebuilding import Rebuild, switch
from vecserve_server.domain.caller import Caller
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import FailedPrecondition, NotFound, VecserveError, is_for_caller
from vecserve_server.observability.logging import get_logger, log_event
from vecserve_server.services.reindex_rules import (
    check_comparison,
    check_sources,
    is_over,
    is_running,
    next_number,
    serving,
    succeeds,
)
from vecserve_server.services.row_embedding import rows_with
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.embedder import Embedder
from vecserve_server.serving.model_versions import ServedModel
from vecserve_server.settings.settings import ReindexSettings
from vecserve_server.storage.folders.manifest import Generation, Manifest, Reindex, Retired

UPKEEP_S = 3600.0


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
    takes_back: bool
    target: Collection | None = None


class ReindexingService:
    """Every re-index, at most one for each collection."""

    def __init__(
        self,
        *,
        collections: Collections,
        embedder: Embedder,
        catalog: Catalog,
        settings: ReindexSettings,
        release_models: Callable[[], None],
        wall_clock_ms: Callable[[], int],
    ) -> None:
        """Call `release_models` when fewer of their versions may be needed."""
        self._collections = collections
        self._embedder = embedder
        self._catalog = catalog
        self._settings = settings
        self._release_models = release_models
        self._wall_clock_ms = wall_clock_ms
        self._log = get_logger("reindex")
        self._runs: dict[str, _Run] = {}
        self._beginnings: set[asyncio.Task[None]] = set()
        self._house: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Go on with what was interrupted; begin to follow the models and the calendar."""
        for collection in self._collections.all():
            name = collection.spec.name
            reindex = self._collections.manifest(name).reindex
            if reindex is not None and is_running(reindex):
                self._begin(name, self._build(collection, reindex))
            self._follow_model(name)
        self._catalog.watch(self._model_came)
        self._house = asyncio.create_task(self._keep_house(), name="reindex-upkeep")

    async def close(self) -> None:
        """Stop; what is not done goes on at the next start."""
        tasks = [*self._beginnings, *(run.task for run in self._runs.values())]
        tasks += [self._house] if self._house is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def start(self, name: str, model: str, caller: Caller) -> str:
        """Begin to embed a collection anew; return the id of the re-index.

        An empty `model` asks for the latest version of the collection's model. Raises NotFound,
        and FailedPrecondition if one is running or rows do not keep their texts.
        """
        spec = self._collections.get(name).spec
        return await self._start(spec.name, self._catalog.get(model or spec.model.name))

    def get(self, reindex_id: str, caller: Caller) -> Progress:
        """Tell how far a re-index is; the last one of each collection is known."""
        name, reindex = self._find(reindex_id)
        run = self._runs.get(name)
        total = self._collections.get(name).live_rows
        done = run.target.live_rows if run is not None and run.target is not None else 0
        done = total if reindex.state == "done" else min(done, total)
        return Progress(collection=name, reindex=reindex, done_rows=done, total_rows=total)

    async def cancel(self, reindex_id: str, caller: Caller) -> None:
        """Stop a re-index, or take one back that is done; the generation before serves then.

        Raises NotFound, and FailedPrecondition if the generation before or its model is gone.
        """
        name, _ = self._find(reindex_id)
        run = self._runs.get(name)
        if run is not None and not run.takes_back:
            run.task.cancel()
            await asyncio.gather(run.task, return_exceptions=True)
        name, reindex = self._find(reindex_id)
        if reindex.state == "done":
            if name not in self._runs:  # nobody takes it back already
                self._begin(name, self._take_back(name, reindex), takes_back=True)
            await asyncio.shield(self._runs[name].task)
        elif is_running(reindex):
            await self._stopped(name, replace(reindex, state="cancelled"))

    async def ended(self, name: str) -> None:
        """Wait until no re-index of a collection runs."""
        while (run := self._runs.get(name)) is not None:
            await asyncio.wait([run.task])

    async def settled(self) -> None:
        """Wait until no re-index runs, and none is about to begin by itself."""
        while tasks := {*self._beginnings, *(run.task for run in self._runs.values())}:
            await asyncio.wait(tasks)

    async def clean_up(self, name: str) -> None:
        """Remove the generations that nobody may go back to any more."""
        try:
            async with self._collections.upkeep(name):
                live, now_ms = self._collections.get(name), self._wall_clock_ms()
                previous = self._collections.manifest(name).previous
                if is_over(previous, keep_days=self._settings.keep_days, now_ms=now_ms):
                    await self._collections.record(live, lambda m: replace(m, previous=None))
                await self._discard(live)
        except NotFound:
            return  # it was dropped
        except Exception:  # noqa: BLE001 - an hour later it is tried again
            self._log.warning("clean_up_failed", exc_info=True)

    async def _start(self, name: str, served: ServedModel) -> str:
        ref = served.text.ref
        self._refuse_if_running(name)
        async with self._collections.upkeep(name):
            self._refuse_if_running(name)  # another call may have been faster
            collection = self._collections.get(name)
            if ref.digest != collection.spec.model.digest:
                await check_sources(collection)
            reindex = Reindex(
                id=uuid.uuid4().hex,
                generation=Generation(
                    number=next_number(self._collections.manifest(name)),
                    model=ref,
                    dim=self._dim(collection, served),
                ),
            )
            await self._collections.record(collection, lambda m: replace(m, reindex=reindex))
            self._begin(name, self._build(collection, reindex))
        return reindex.id

    def _refuse_if_running(self, name: str) -> None:
        if name in self._runs or is_running(self._collections.manifest(name).reindex):
            raise FailedPrecondition(f"{name!r} is being re-indexed already", field="collection")

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

    async def _build(self, live: Collection, reindex: Reindex) -> None:
        """Build the new generation and let it serve, or note why that failed."""
        name = live.spec.name
        self._say("reindex_started", name, reindex)
        try:
            await self._copy_and_flip(live, reindex)
        except Exception as error:  # noqa: BLE001 - whatever it is, the collection serves on
            self._say("reindex_failed", name, reindex, reason=error)
            message = str(error)
            if not is_for_caller(error):
                self._log.error("reindex_failed", exc_info=error)
                message = f"internal error; the server's log has the details of {reindex.id}"
            await self._stopped(name, replace(reindex, state="failed", message=message))
        else:
            await self.clean_up(name)

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

    async def _take_back(self, name: str, reindex: Reindex) -> None:
        """Bring the generation before up to date and let it serve again."""
        async with self._collections.upkeep(name):
            manifest = self._collections.manifest(name)
            if manifest.reindex != reindex:
                raise FailedPrecondition(f"{name!r} is being re-indexed again", field="collection")
            await self._return_to(name, reindex, manifest.previous)

    async def _return_to(self, name: str, reindex: Reindex, previous: Retired | None) -> None:
        if previous is None:
            raise FailedPrecondition(
                f"the generation before the last re-index of {name!r} is gone; "
                f"reindex.keep_days = {self._settings.keep_days:g}",
                field="collection",
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
        await self._discard(target)

    def _rebuild(self, live: Collection, target: Collection, served: ServedModel) -> Rebuild:
        same_vectors = live.spec.model.digest == target.spec.model.digest
        make_rows = rows_with(self._embedder, None if same_vectors else served, dim=target.spec.dim)
        return Rebuild(source=live, target=target, make_rows=make_rows)

    async def _switch(
        self, live: Collection, target: Collection, rebuild: Rebuild, change: ManifestChange
    ) -> None:
        await switch(self._collections, live=live, target=target, rebuild=rebuild, change=change)

    def _succession(self, done: Reindex) -> ManifestChange:
        def change(now: Manifest) -> Manifest:
            retired = Retired(generation=now.live, retired_unix_ms=self._wall_clock_ms())
            return replace(serving(now, done.generation), previous=retired, reindex=done)

        return change

    async def _stopped(self, name: str, reindex: Reindex) -> None:
        """Note how a re-index ended and remove what it built."""

        def change(now: Manifest) -> Manifest:
            if now.reindex is None or now.reindex.id != reindex.id:
                raise NotFound(f"{name!r} is another one by now", field="collection")
            return replace(now, reindex=reindex)

        try:
            live = self._collections.get(name)
            await self._collections.record(live, change)
            await self._discard(live)
        except NotFound:
            return  # the collection was dropped, and all that there was with it
        except VecserveError as error:
            self._say("reindex_not_cleaned_up", name, reindex, reason=error)

    async def _discard(self, collection: Collection) -> None:
        await self._collections.discard(collection)
        self._release_models()

    def _model_came(self, served: ServedModel) -> None:
        for collection in self._collections.all():
            if collection.spec.model.name == served.text.ref.name:
                self._follow_model(collection.spec.name)

    def _follow_model(self, name: str) -> None:
        """Re-index a collection if a newer version of its model serves."""
        if self._settings.on_new_version == "ignore" or name in self._runs:
            return
        with suppress(NotFound):
            spec = self._collections.get(name).spec
            served = self._catalog.get(spec.model.name)
            reindex = self._collections.manifest(name).reindex
            # One with the same weights failed, or somebody did not want it.
            was_tried = reindex and reindex.generation.model.digest == served.text.ref.digest
            if succeeds(served.text.ref, spec.model) and not was_tried:
                beginning = asyncio.create_task(self._start_by_itself(name, served))
                self._beginnings.add(beginning)
                beginning.add_done_callback(self._beginnings.discard)

    async def _start_by_itself(self, name: str, served: ServedModel) -> None:
        try:
            await self._start(name, served)
        except VecserveError as error:
            log_event(
                self._log, logging.WARNING, "reindex_not_started", collection=name, reason=error
            )

    async def _keep_house(self) -> None:
        while True:
            for collection in self._collections.all():
                await self.clean_up(collection.spec.name)
            await asyncio.sleep(UPKEEP_S)

    def _find(self, reindex_id: str) -> tuple[str, Reindex]:
        for collection in self._collections.all():
            reindex = self._collections.manifest(collection.spec.name).reindex
            if reindex is not None and reindex.id == reindex_id:
                return collection.spec.name, reindex
        raise NotFound(
            f"{reindex_id!r} is not the last re-index of a collection", field="reindex_id"
        )

    def _begin(
        self, name: str, work: Coroutine[Any, Any, None], *, takes_back: bool = False
    ) -> None:
        task = asyncio.create_task(work, name=f"reindex-{name}")
        self._runs[name] = _Run(task=task, takes_back=takes_back)
        task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._runs.get(name) is not None and self._runs[name].task is task:
            del self._runs[name]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, VecserveError):
            self._log.error("reindex_broke", exc_info=error)
        self._follow_model(name)  # a still newer version may have come meanwhile

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

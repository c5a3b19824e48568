"""Re-indexing: what becomes of generations, records and models when calls and changes meet."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vecserve_server.collections.collections import Collections
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.inputs import Text
from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.domain.vectors import ModelRef, Vectors
from vecserve_server.errors import (
    EngineError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StorageError,
)
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.opening import Indexes
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.services.reindex_rules import DAY_MS, is_running
from vecserve_server.services.reindexing import Progress, ReindexingService
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.model_versions import ServedModel
from vecserve_server.settings.settings import ReindexSettings
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.manifest import Generation, Retired
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.writer import RowWriter

DIM, ROWS = 8, 50
PATIENCE_S = 60.0


def ref(version: int) -> ModelRef:
    return ModelRef(name="m", version=str(version), digest=str(version) * 64)


SPEC = CollectionSpec(name="docs", model=ref(1), dim=DIM, created_unix_ms=0)


def vector_of(text: str, digest: str) -> Vectors:
    seed = int.from_bytes(hashlib.sha256((digest + text).encode()).digest()[:4])
    made = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    unit: Vectors = made / np.linalg.norm(made)
    return unit


@dataclass
class Embedding:
    """Embeds as the model's digest says, while the door is open."""

    max_inputs: int = 1000
    failure: Exception | None = None
    door: asyncio.Event = field(default_factory=asyncio.Event)
    knocked: asyncio.Event = field(default_factory=asyncio.Event)

    async def embed(
        self, served: ServedModel, inputs: Sequence[Text], options: object
    ) -> SimpleNamespace:
        assert options
        self.knocked.set()
        await self.door.wait()
        if self.failure is not None:
            raise self.failure
        if len(inputs) > self.max_inputs:
            raise InvalidArgument("inputs", "are too many")
        vectors = np.stack([vector_of(item.text, served.text.ref.digest) for item in inputs])
        return SimpleNamespace(vectors=vectors, errors={})


@dataclass
class World:
    """A service over one collection, with all that it needs."""

    collections: Collections
    embedding: Embedding
    catalog: Catalog
    service: ReindexingService
    upkeep: UpkeepService
    folder: Path
    released: list[None]
    now_ms: int = 0

    def serve(self, version: int) -> None:
        text: Any = SimpleNamespace(ref=ref(version), config=SimpleNamespace(dim=DIM))
        compute: Any = None
        served = ServedModel(text=text, compute=compute, preprocessors={})
        loaded: Any = SimpleNamespace(name=text.ref.name, version=text.ref.version, text=served)
        self.catalog.put(loaded)

    async def fill(self) -> None:
        collection = await self.collections.create(SPEC)
        texts = [f"text {number}" for number in range(ROWS)]
        await collection.write(
            [
                Upsert(
                    NewRow(
                        id=text,
                        vector=vector_of(text, SPEC.model.digest),
                        payload_json="{}",
                        source=Source(text=text),
                    )
                )
                for text in texts
            ]
        )

    async def ended(self, reindex_id: str) -> Progress:
        """Wait until a re-index runs no more."""
        async with asyncio.timeout(PATIENCE_S):
            await self.service.ended("docs")
        found = self.service.get(reindex_id, ANONYMOUS)
        assert not is_running(found.reindex)
        return found

    async def followed(self, version: int) -> None:
        """Wait until the collection has the vectors of a version, by itself."""
        async with asyncio.timeout(PATIENCE_S):
            await self.service.settled()
        assert self.collections.get("docs").spec.model == ref(version)

    def generations(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name.isdecimal())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    writer = RowWriter(queue_rows=1000, group_rows=100, on_death=lambda _: None)
    writer.start()
    with DataFolder.open(tmp_path / "data") as folder, ThreadPoolExecutor(2) as pool:
        collections = Collections(
            folder=folder,
            writer=writer,
            search_pool=pool,
            indexes=Indexes(maintenance=IndexMaintenance(), options=IndexOptions()),
            max_collections=3,
            clock_ns=time.perf_counter_ns,
            metrics=make_metrics(),
        )
        embedding, released = Embedding(), list[None]()
        embedding.door.set()
        catalog = Catalog(default="m")
        faked: Any = embedding
        made = World(
            collections=collections,
            embedding=embedding,
            catalog=catalog,
            service=ReindexingService(
                collections=collections,
                embedder=faked,
                catalog=catalog,
                settings=ReindexSettings(),
                release_models=lambda: released.append(None),
                wall_clock_ms=lambda: made.now_ms,
            ),
            upkeep=UpkeepService(collections=collections, snapshots=tmp_path / "snapshots"),
            folder=tmp_path / "data" / "collections" / "docs",
            released=released,
        )
        made.serve(1)
        await made.fill()
        made.service.open()
        yield made
        await made.service.close()
        assert await collections.close(PATIENCE_S)
    writer.drain(PATIENCE_S)


async def test_only_the_generation_before_stays_on_disk(world: World) -> None:
    for _ in range(3):
        done = await world.ended(await world.service.start("docs", "", ANONYMOUS))
        assert done.reindex.state == "done"
    assert world.generations() == ["3", "4"]


async def test_compaction_removes_generations_that_could_not_be_removed_before(
    world: World,
) -> None:
    live = world.collections.get("docs")
    stray = await world.collections.open_generation(
        live, Generation(number=7, model=ref(1), dim=DIM)
    )
    await world.collections.release(stray)
    assert world.generations() == ["1", "7"]
    await world.upkeep.compact("docs", ANONYMOUS)
    assert world.generations() == ["1"]


async def test_a_collection_with_the_name_of_a_dropped_one_does_not_inherit_its_re_index(
    world: World,
) -> None:
    world.embedding.door.clear()
    world.serve(2)
    await world.embedding.knocked.wait()
    of_dropped = world.collections.manifest("docs").reindex
    assert of_dropped is not None
    await world.collections.drop("docs")
    await world.fill()
    world.embedding.door.set()
    async with asyncio.timeout(PATIENCE_S):
        await world.service.ended("docs")
    reindex = world.collections.manifest("docs").reindex
    assert reindex is None or reindex.id != of_dropped.id
    await world.followed(2)


async def test_a_version_that_comes_during_a_re_index_is_followed_after_it(world: World) -> None:
    world.embedding.door.clear()
    world.serve(2)
    await world.embedding.knocked.wait()
    world.serve(3)
    world.embedding.door.set()
    await world.followed(3)
    row = (await world.collections.get("docs").get(["text 7"], with_vectors=True))["text 7"]
    assert row.vector is not None
    np.testing.assert_allclose(row.vector, vector_of("text 7", ref(3).digest), atol=1e-3)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (StorageError("/srv/data/rows.sqlite: no space"), "server's log"),
        (EngineError("model.cc:77 failed"), "server's log"),
        (RuntimeError("a bug in module.py"), "server's log"),
        (FailedPrecondition("row 'x': is odd"), "row 'x': is odd"),
    ],
)
async def test_a_failure_is_noted_and_tells_no_path(
    world: World, failure: Exception, message: str
) -> None:
    world.embedding.failure = failure
    world.serve(2)
    async with asyncio.timeout(PATIENCE_S):
        await world.service.settled()
    reindex = world.collections.manifest("docs").reindex
    assert reindex is not None
    found = (await world.ended(reindex.id)).reindex
    assert (found.state, found.message.count(message)) == ("failed", 1)
    for secret in ("/srv", "model.cc", "module.py"):
        assert secret not in found.message
    assert world.generations() == ["1"]
    world.embedding.failure = None
    assert (
        await world.ended(await world.service.start("docs", "", ANONYMOUS))
    ).reindex.state == "done"


async def test_rows_are_embedded_in_calls_that_the_limit_allows(world: World) -> None:
    world.embedding.max_inputs = 7
    world.serve(2)
    await world.followed(2)
    assert world.collections.get("docs").live_rows == ROWS


async def test_two_who_take_the_same_re_index_back_both_succeed(world: World) -> None:
    world.serve(2)
    await world.followed(2)
    reindex = world.collections.manifest("docs").reindex
    assert reindex is not None
    await world.ended(reindex.id)
    await asyncio.gather(
        world.service.cancel(reindex.id, ANONYMOUS), world.service.cancel(reindex.id, ANONYMOUS)
    )
    assert world.collections.get("docs").spec.model == ref(1)
    assert world.service.get(reindex.id, ANONYMOUS).reindex.message == "taken back"


async def test_a_re_index_begins_after_the_compaction_that_goes_on(world: World) -> None:
    lock = world.collections.upkeep("docs")
    async with lock:  # as a compaction holds it
        starting = asyncio.create_task(world.service.start("docs", "", ANONYMOUS))
        await asyncio.wait([starting], timeout=0.2)
        assert not is_running(world.collections.manifest("docs").reindex)
    assert (await world.ended(await starting)).reindex.state == "done"


async def test_a_compaction_that_waited_meets_a_collection_that_is_gone(world: World) -> None:
    lock = world.collections.upkeep("docs")
    async with lock:
        waiting = asyncio.create_task(world.upkeep.compact("docs", ANONYMOUS))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await world.collections.drop("docs")
    with pytest.raises(NotFound, match="'docs' does not exist"):
        await waiting


async def test_a_clean_up_that_waited_keeps_what_was_retired_meanwhile(world: World) -> None:
    await world.ended(await world.service.start("docs", "", ANONYMOUS))
    world.now_ms = 30 * DAY_MS
    live = world.collections.get("docs")
    async with world.collections.upkeep("docs"):
        cleaning = asyncio.create_task(world.service.clean_up("docs"))
        await asyncio.sleep(0)
        previous = world.collections.manifest("docs").previous
        assert previous is not None
        fresh = Retired(generation=previous.generation, retired_unix_ms=world.now_ms)
        await world.collections.record(live, lambda now: replace(now, previous=fresh))
    await cleaning
    assert world.collections.manifest("docs").previous == fresh
    assert world.generations() == ["1", "2"]
    world.now_ms = 60 * DAY_MS
    await world.service.clean_up("docs")
    assert world.collections.manifest("docs").previous is None
    assert world.generations() == ["2"]
    assert world.released

"""Collections: changes are whole even when their caller goes away, and drops fence calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.collections import CollectionSpec
from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.searching import Wanted
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.errors import AlreadyExists, FailedPrecondition, NotFound, StorageError
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.opening import Indexes
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.writer import RowWriter

DIM = 4
PATIENCE_S = 60.0


def spec(name: str) -> CollectionSpec:
    model = ModelRef(name="m", version="1", digest="0" * 64)
    return CollectionSpec(name=name, model=model, dim=DIM, created_unix_ms=0)


def upsert(number: int) -> Upsert:
    vector = np.eye(DIM, dtype=np.float32)[number % DIM]
    return Upsert(NewRow(id=f"r{number}", vector=vector, payload_json="{}"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with DataFolder.open(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def writer() -> Iterator[RowWriter]:
    started = RowWriter(queue_rows=1000, group_rows=100, on_death=lambda _: None)
    started.start()
    yield started
    started.drain(PATIENCE_S)


@pytest.fixture
async def collections(folder: DataFolder, writer: RowWriter) -> AsyncIterator[Collections]:
    with ThreadPoolExecutor(2) as pool:
        made = Collections(
            folder=folder,
            writer=writer,
            search_pool=pool,
            indexes=Indexes(maintenance=IndexMaintenance(), options=IndexOptions()),
            max_collections=3,
            clock_ns=time.perf_counter_ns,
            metrics=make_metrics(),
        )
        yield made
        await made.close(PATIENCE_S)


class Stall:
    """Holds the writer inside a commit."""

    def __init__(self, collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.released = threading.Event(), threading.Event()
        log = collection._log
        commit = log.commit

        def stalled(operations: list[Upsert]) -> object:
            self.entered.set()
            assert self.released.wait(PATIENCE_S)
            return commit(operations)

        monkeypatch.setattr(log, "commit", stalled)


async def test_names_are_taken_and_counted(collections: Collections) -> None:
    for name in ("a", "b", "c"):
        await collections.create(spec(name))
    with pytest.raises(AlreadyExists, match="'a' exists already"):
        await collections.create(spec("a"))
    with pytest.raises(FailedPrecondition, match="max_collections = 3"):
        await collections.create(spec("d"))
    await collections.drop("b")
    await collections.create(spec("d"))
    assert [c.spec.name for c in collections.all()] == ["a", "c", "d"]


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_creation_is_whole_or_nothing(
    collections: Collections, folder: DataFolder, steps: int
) -> None:
    creation = asyncio.create_task(collections.create(spec("a")))
    for _ in range(steps):
        await asyncio.sleep(0)
    creation.cancel()
    await asyncio.gather(creation, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        await collections.settled()
    assert [c.spec.name for c in collections.all()] == folder.collection_names()


@pytest.mark.parametrize("steps", range(6))
async def test_a_cancelled_drop_is_whole_or_nothing(
    collections: Collections, folder: DataFolder, steps: int
) -> None:
    collection = await collections.create(spec("a"))
    await collection.write([upsert(0)])
    drop = asyncio.create_task(collections.drop("a"))
    for _ in range(steps):
        await asyncio.sleep(0)
    drop.cancel()
    await asyncio.gather(drop, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        await collections.settled()
    assert [c.spec.name for c in collections.all()] == folder.collection_names()


async def test_a_long_restore_holds_no_other_change_back_and_keeps_its_name(
    collections: Collections, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, released = threading.Event(), threading.Event()
    create = folder.create_collection

    def slow(of: CollectionSpec) -> Path:
        if of.name == "slow":
            entered.set()
            assert released.wait(PATIENCE_S)
        return create(of)

    monkeypatch.setattr(folder, "create_collection", slow)
    coming = asyncio.create_task(collections.create(spec("slow")))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S / 2):
        await collections.create(spec("a"))
        await collections.drop("a")
        await collections.create(spec("a"))
        await collections.create(spec("b"))
        with pytest.raises(FailedPrecondition, match="max_collections = 3"):
            await collections.create(spec("c"))
        with pytest.raises(AlreadyExists, match="'slow' exists already"):
            await collections.create(spec("slow"))
        with pytest.raises(AlreadyExists, match="'slow' is the name of a collection"):
            await collections.set_alias("slow", "a")
        with pytest.raises(NotFound, match="'slow' does not exist"):
            await collections.drop("slow")
    released.set()
    await coming
    assert [c.spec.name for c in collections.all()] == ["a", "b", "slow"]


async def test_a_failing_creation_leaves_no_folder(
    collections: Collections, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr("vecserve_server.collections.opening.RowLog.open", refuse)
    with pytest.raises(StorageError, match="no space"):
        await collections.create(spec("a"))
    assert folder.collection_names() == []
    monkeypatch.undo()
    await collections.create(spec("a"))


async def test_what_is_dropped_has_no_manifest(collections: Collections) -> None:
    await collections.create(spec("a"))
    await collections.drop("a")
    with pytest.raises(NotFound, match="'a' does not exist"):
        collections.manifest("a")


async def test_a_drop_waits_for_the_write_under_way_and_refuses_later_ones(
    collections: Collections, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await collections.create(spec("a"))
    stall = Stall(collection, monkeypatch)
    under_way = asyncio.create_task(collection.write([upsert(0)]))
    assert await asyncio.to_thread(stall.entered.wait, PATIENCE_S)
    closing, close = asyncio.Event(), collection.close

    async def noted(timeout_s: float) -> bool:
        closing.set()
        return await close(timeout_s)

    monkeypatch.setattr(collection, "close", noted)
    drop = asyncio.create_task(collections.drop("a"))
    await asyncio.wait_for(closing.wait(), PATIENCE_S)
    with pytest.raises(NotFound, match="'a' does not exist"):
        await collection.write([upsert(1)])
    with pytest.raises(NotFound, match="'a' does not exist"):
        await collection.get(["r0"], with_vectors=False)
    assert not drop.done()
    stall.released.set()
    assert await under_way == (1,)
    await drop
    assert folder.collection_names() == []


async def test_closing_gives_up_on_a_disk_that_hangs(
    collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await collections.create(spec("a"))
    stall = Stall(collection, monkeypatch)
    hanging = asyncio.create_task(collection.write([upsert(0)]))
    assert await asyncio.to_thread(stall.entered.wait, PATIENCE_S)
    assert not await collections.close(timeout_s=0.05)
    stall.released.set()
    await hanging


async def test_rows_come_back_after_a_restart(
    folder: DataFolder, writer: RowWriter, collections: Collections
) -> None:
    collection = await collections.create(spec("a"))
    await collection.write([upsert(number) for number in range(10)])
    assert await collection.write([Delete("r3"), Delete("r4"), Delete("nobody")]) == (4, 5, None)
    assert await collections.close(PATIENCE_S)
    assert await collections.open_all() == 8
    reopened = collections.get("a")
    asked = Asked(vector=np.eye(DIM, dtype=np.float32)[0], leave_out=frozenset({"r8"}))
    found = await reopened.retrieve([asked], Wanted(k=5, min_score=0.9))
    assert [hit.id for hit in found.answers[0].hits] == ["r0"]

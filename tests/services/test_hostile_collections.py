"""Collections whose files are lost, whose reads are slow, and whose callers leave."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecserve_server.checked_json import find_checked_json, write_checked_json
from vecserve_server.domain import CollectionSpec, FieldSpec, FieldType, ModelRef, NewRow
from vecserve_server.errors import (
    ConfigError,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
)
from vecserve_server.index.maintenance import IndexMaintenance
from vecserve_server.index.opening import Indexes
from vecserve_server.index.planning import Thresholds
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.services.collection import Collection
from vecserve_server.services.collections import Collections
from vecserve_server.services.opening import Bounds
from vecserve_server.services.retrieval import Asked, Mode, Wanted
from vecserve_server.services.standing import State
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.services.watching import Watching
from vecserve_server.storage import snapshots as snapshot_files
from vecserve_server.storage.conditions import Exists
from vecserve_server.storage.data_folder import DataFolder
from vecserve_server.storage.filter_sql import Sql
from vecserve_server.storage.manifest import read_manifest
from vecserve_server.storage.operations import Upsert
from vecserve_server.storage.snapshots import Unreadable
from vecserve_server.storage.writer import RowWriter

DIM = 4
PATIENCE_S = 60.0
BOUNDS = Bounds(max_read_s=3600.0, open_stores=4)
ANY = Exists(field="x", there=False)
ENDLESS = Sql(
    "((WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c) > 0)"
)


def spec(name: str) -> CollectionSpec:
    model = ModelRef(name="m", version="1", digest="0" * 64)
    title = FieldSpec(name="title", type=FieldType.TEXT)
    return CollectionSpec(name=name, model=model, dim=DIM, created_unix_ms=0, fields=(title,))


def upsert(number: int) -> Upsert:
    vector = np.eye(DIM, dtype=np.float32)[number % DIM]
    payload = json.dumps({"title": f"word {number}"})
    return Upsert(NewRow(id=f"r{number}", vector=vector, payload_json=payload))


class Store:
    """Collections with their upkeep and the watch over their files."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self.root = root
        self.folder = DataFolder.open(root)
        self.writer = RowWriter(queue_rows=1000, group_rows=100, on_death=lambda _: None)
        self.writer.start()
        self.metrics = make_metrics()
        self.maintenance = IndexMaintenance()
        thresholds = Thresholds(first_rows=1 << 30, delta_rows=1 << 30)
        self.collections = Collections(
            folder=self.folder,
            writer=self.writer,
            search_pool=pool,
            indexes=Indexes(
                maintenance=self.maintenance, options=IndexOptions(thresholds=lambda _: thresholds)
            ),
            max_collections=99,
            clock_ns=time.perf_counter_ns,
            metrics=self.metrics,
            bounds=BOUNDS,
        )
        self.snapshots = root / "snapshots"
        self.upkeep = UpkeepService(collections=self.collections, snapshots=self.snapshots)
        self.watching = Watching(collections=self.collections, every_s=3600)

    async def made(self, name: str) -> Collection:
        collection = await self.collections.create(spec(name))
        await collection.write([upsert(0)])
        return collection

    def files_of(self, name: str) -> Path:
        return self.root / "collections" / name

    def up(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(
            "vecserve_collection_up", {"collection": name}
        )

    async def close(self) -> None:
        await self.upkeep.close()
        await self.collections.close(PATIENCE_S)
        self.writer.drain(PATIENCE_S)
        self.folder.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    with ThreadPoolExecutor(BOUNDS.all_search_threads) as pool:
        made = Store(tmp_path / "data", pool)
        yield made
        await made.close()


async def found(collection: Collection) -> list[str]:
    asked = [Asked(vector=np.eye(DIM, dtype=np.float32)[0])]
    retrieved = await collection.retrieve(asked, Wanted(k=9))
    return [hit.id for hit in retrieved.answers[0].hits]


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def restore_backup(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("backup"))
    shutil.rmtree(folder)
    folder.with_name("backup").rename(folder)


def remove_rows(folder: Path) -> None:
    (folder / "1" / "rows.sqlite").unlink()


def remove_log(folder: Path) -> None:
    (folder / "1" / "rows.sqlite-wal").unlink()


def remove_data_folder(folder: Path) -> None:
    folder.parent.parent.rename(folder.parent.parent.with_name("unmounted"))


LOSSES = [remove, move, restore_backup, remove_rows, remove_log, remove_data_folder]


@pytest.mark.parametrize("lose", LOSSES)
async def test_writes_to_lost_files_are_refused_and_the_collection_is_down(
    store: Store, lose: Callable[[Path], None]
) -> None:
    lost, other = await store.made("lost"), await store.made("other")
    lose(store.files_of("lost"))
    with pytest.raises(FailedPrecondition, match=r"'lost' (are gone|were replaced) while they"):
        await lost.write([upsert(1)])
    assert lost.standing.state is State.DOWN
    assert store.up("lost") == 0.0
    assert await found(lost) == ["r0"]
    with pytest.raises(FailedPrecondition):
        await store.upkeep.snapshot("lost", "monday")
    with pytest.raises(FailedPrecondition):
        await store.collections.record(lost, lambda manifest: manifest)
    if lose is not remove_data_folder:
        await other.write([upsert(1)])
        assert store.up("other") == 1.0


@pytest.mark.parametrize("lose", LOSSES)
async def test_the_watch_notices_what_nobody_writes_to(
    store: Store, lose: Callable[[Path], None]
) -> None:
    await store.made("lost")
    await store.watching.look()
    assert store.collections.down() == []
    lose(store.files_of("lost"))
    await store.watching.look()
    assert store.collections.down() == ["lost"]
    assert "put back those that were there" in store.collections.get("lost").standing.reason


async def test_files_that_are_put_back_are_served_again(store: Store) -> None:
    collection = await store.made("a")
    move(store.files_of("a"))
    await store.watching.look()
    store.files_of("elsewhere").rename(store.files_of("a"))
    await store.watching.look()
    assert store.collections.down() == []
    await collection.write([upsert(1)])


async def test_a_removed_collection_can_be_dropped_and_made_anew(store: Store) -> None:
    await store.made("a")
    remove(store.files_of("a"))
    assert await store.collections.drop("a") == 1
    again = await store.made("a")
    assert await found(again) == ["r0"]


async def test_what_lies_in_the_place_of_a_collection_is_never_dropped(store: Store) -> None:
    await store.made("a")
    restore_backup(store.files_of("a"))
    with pytest.raises(FailedPrecondition, match="restart the server"):
        await store.collections.drop("a")
    assert (store.files_of("a") / "1" / "rows.sqlite").exists()


async def test_nothing_is_made_in_another_data_folder(store: Store) -> None:
    await store.made("a")
    remove_data_folder(store.files_of("a"))
    (store.root / "collections").mkdir(parents=True)
    collections = store.collections
    changes = (
        collections.create(spec("b")),
        collections.set_alias("x", "a"),
        collections.drop("a"),
    )
    for change in changes:
        with pytest.raises(FailedPrecondition, match="data folder is not where"):
            await change
    with pytest.raises(FailedPrecondition):
        await store.upkeep.snapshot("a", "monday")
    assert [path.name for path in store.root.rglob("*")] == ["collections"]


async def test_lost_segments_degrade_a_collection_that_is_written_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    monkeypatch.setattr(collection._index, "lost_folders", lambda: ["segment-1"])
    await store.watching.look()
    assert collection.standing.state is State.DEGRADED
    assert "no row is lost" in collection.standing.reason
    assert store.up("a") == 1.0
    await collection.write([upsert(1)])


READS: list[Callable[[Collection], Any]] = [
    lambda c: c.count(ANY),
    lambda c: c.scan(0, 9, with_vectors=False, condition=ANY),
    lambda c: c.keys(ANY, after_seq=0, limit=9),
    lambda c: c.retrieve(
        [Asked(vector=np.eye(DIM, dtype=np.float32)[0])], Wanted(k=1, condition=ANY)
    ),
    lambda c: c.retrieve([Asked(text="word")], Wanted(k=1, mode=Mode.LEXICAL, condition=ANY)),
]


@pytest.mark.parametrize("read", READS)
async def test_a_read_whose_caller_leaves_ends_and_others_read_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch, read: Callable[[Collection], Any]
) -> None:
    slow, other = await store.made("slow"), await store.made("other")
    begun = threading.Semaphore(0)

    def endless(_: object) -> Sql:
        begun.release()
        return ENDLESS

    monkeypatch.setattr(slow._log.queries, "compile", endless)
    readers = [asyncio.create_task(read(slow)) for _ in range(6)]
    for _ in range(BOUNDS.search_threads):
        await asyncio.to_thread(begun.acquire, timeout=PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        assert await found(other) == ["r0"]
        assert await other.count(ANY) == 1
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        while slow._jobs_in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert store.collections.reads.waiting == 0


async def test_each_query_of_a_call_has_a_time_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    now_ns = 0
    monkeypatch.setattr(collection, "_clock_ns", lambda: now_ns)
    monkeypatch.setattr(collection, "_max_read_s", 10.0)
    lexical = collection._log.queries.lexical
    was_late: list[bool] = []

    def slow(*args: Any, **more: Any) -> Any:
        nonlocal now_ns
        answer = lexical(*args, **more)
        now_ns += 9_000_000_000
        was_late.append(more["is_late"]())
        return answer

    monkeypatch.setattr(collection._log.queries, "lexical", slow)
    many = [Asked(text=f"word {number}") for number in range(1190)]
    wanted = Wanted(k=1, mode=Mode.LEXICAL)
    assert len((await collection.retrieve(many, wanted)).answers) == 1190
    assert not any(was_late)
    with pytest.raises(DeadlineExceeded, match="the call's deadline passed"):
        await collection.retrieve(many, wanted, deadline_ns=now_ns + 100_000_000_000)


async def test_a_call_with_many_queries_lets_others_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    monkeypatch.setattr("vecserve_server.services.collection.TURN_S", 0.0)
    lexical = collection._log.queries.lexical
    asked_for: list[str] = []
    has_begun = threading.Event()

    def noted(text: str, *args: Any, **more: Any) -> Any:
        asked_for.append(text)
        assert has_begun.wait(PATIENCE_S)
        return lexical(text, *args, **more)

    monkeypatch.setattr(collection._log.queries, "lexical", noted)
    wanted = Wanted(k=1, mode=Mode.LEXICAL)
    many = [Asked(text=f"word {number}") for number in range(200)]
    batches = [asyncio.create_task(collection.retrieve(many, wanted)) for _ in range(4)]
    single = asyncio.create_task(collection.retrieve([Asked(text="single")], wanted))
    await asyncio.sleep(0)
    has_begun.set()
    await asyncio.gather(*batches, single)
    assert asked_for.index("single") < 200


async def test_a_snapshot_whose_caller_left_is_not_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    copying, released = threading.Event(), threading.Event()
    copy_into = collection._log.copy_into

    def stalled(*args: Any, **more: Any) -> int:
        copying.set()
        assert released.wait(PATIENCE_S)
        return copy_into(*args, **more)

    monkeypatch.setattr(collection._log, "copy_into", stalled)
    callers = [asyncio.create_task(store.upkeep.snapshot("a", f"s{n}")) for n in range(12)]
    assert await asyncio.to_thread(copying.wait, PATIENCE_S)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    released.set()
    async with asyncio.timeout(PATIENCE_S):
        while store.upkeep.jobs:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert list(store.snapshots.iterdir()) == []
    await store.upkeep.snapshot("a", "s0")


async def test_a_snapshot_that_was_finished_for_nobody_is_deleted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    made = collection.snapshot
    caller: asyncio.Task[Any]

    async def finished(*args: Any) -> Any:
        snapshot = await made(*args)
        caller.cancel()
        await asyncio.wait([caller])
        return snapshot

    monkeypatch.setattr(collection, "snapshot", finished)
    caller = asyncio.create_task(store.upkeep.snapshot("a", "s"))
    await asyncio.wait([caller])
    async with asyncio.timeout(PATIENCE_S):
        while store.upkeep.jobs:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert list(store.snapshots.iterdir()) == []


async def test_a_restore_whose_caller_left_makes_no_collection(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.made("a")
    await store.upkeep.snapshot("a", "s")
    copying, released = threading.Event(), threading.Event()
    sha256 = snapshot_files._sha256

    def stalled(*args: Any) -> str:
        copying.set()
        assert released.wait(PATIENCE_S)
        return sha256(*args)

    monkeypatch.setattr(snapshot_files, "_sha256", stalled)
    caller = asyncio.create_task(store.upkeep.restore("s", "b"))
    assert await asyncio.to_thread(copying.wait, PATIENCE_S)
    caller.cancel()
    await asyncio.wait([caller])
    released.set()
    async with asyncio.timeout(PATIENCE_S):
        while store.upkeep.jobs:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert [path.name for path in store.files_of("").iterdir()] == ["a"]
    with pytest.raises(NotFound):
        store.collections.get("b")
    assert await store.upkeep.restore("s", "b") == 1


async def test_a_check_leaves_builds_and_searches_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    checking, released = threading.Event(), threading.Event()
    verify = collection._log.verify

    def stalled(**more: Any) -> Any:
        checking.set()
        assert released.wait(PATIENCE_S)
        return verify(**more)

    monkeypatch.setattr(collection._log, "verify", stalled)
    callers = [asyncio.create_task(store.upkeep.verify("a")) for _ in range(4000)]
    assert await asyncio.to_thread(checking.wait, PATIENCE_S)
    threads = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("upkeep") for name in threads) <= BOUNDS.upkeep_threads
    async with asyncio.timeout(PATIENCE_S):
        assert await found(collection) == ["r0"]
        await collection.compact_index()
        released.set()
        checked = await asyncio.gather(*callers)
    assert {(one.row_count, tuple(one.problems)) for one in checked} == {(1, ())}


def rewrite(path: Path, **change: object) -> None:
    content = find_checked_json(path)
    assert content is not None
    write_checked_json(path, {**content, **change})


async def test_snapshots_that_cannot_be_read_are_listed_with_the_reason(store: Store) -> None:
    await store.made("a")
    for name in ("fine", "newer", "unknown", "nested", "damaged"):
        await store.upkeep.snapshot("a", name)
    rewrite(store.snapshots / "newer" / "SNAPSHOT", version=7)
    rewrite(store.snapshots / "unknown" / "SNAPSHOT", zip="zstd")
    nested = {**dataclasses.asdict(spec("a")), "shards": 3}
    rewrite(store.snapshots / "nested" / "SNAPSHOT", spec=nested)
    (store.snapshots / "damaged" / "SNAPSHOT").write_bytes(b"x")
    (store.snapshots / "empty").mkdir()
    listed = await store.upkeep.snapshots()
    problems = {name: one.reason for name, one in listed.items() if isinstance(one, Unreadable)}
    assert sorted(listed) == ["damaged", "fine", "nested", "newer", "unknown"]
    assert sorted(problems) == ["damaged", "nested", "newer", "unknown"]
    assert "has format version 7" in problems["newer"]
    assert "the key 'zip'" in problems["unknown"]
    assert "the key 'shards'" in problems["nested"]
    for name in ("newer", "unknown", "nested"):
        with pytest.raises(FailedPrecondition, match=r"reads version 1|does not know") as raised:
            await store.upkeep.restore(name, "copy")
        assert "the vecserve that wrote it, or a newer one" in str(raised.value)
    assert await store.upkeep.restore("fine", "copy") == 1


async def test_a_manifest_of_a_newer_vecserve_is_refused_with_the_key(store: Store) -> None:
    await store.made("a")
    rewrite(store.files_of("a") / "MANIFEST", shards=3, previous={"node": 1})
    with pytest.raises(ConfigError, match="a newer one"):
        read_manifest(store.files_of("a"))

"""Reads that are slow, calls that are large, callers that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.collections.served_store import ANY, BOUNDS, DIM, ENDLESS, PATIENCE_S, Store, found
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.searching import Mode, Wanted
from vecserve_server.errors import DeadlineExceeded, NotFound
from vecserve_server.storage.folders import snapshots as snapshot_files
from vecserve_server.storage.payloads.filter_sql import Sql

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
        await slow.settled()
    assert store.collections.reads.waiting == 0


async def test_each_query_of_a_call_has_a_time_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    now_ns = 0
    monkeypatch.setattr(collection, "_clock_ns", lambda: now_ns)
    monkeypatch.setattr(collection._jobs, "clock_ns", lambda: now_ns)
    monkeypatch.setattr(collection._jobs, "max_read_s", 10.0)
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
    monkeypatch.setattr("vecserve_server.collections.collection.TURN_S", 0.0)
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
    callers = [
        asyncio.create_task(store.upkeep.snapshot("a", f"s{n}", ANONYMOUS)) for n in range(12)
    ]
    assert await asyncio.to_thread(copying.wait, PATIENCE_S)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    released.set()
    async with asyncio.timeout(PATIENCE_S):
        await store.upkeep.settled()
    assert list(store.snapshots.iterdir()) == []
    await store.upkeep.snapshot("a", "s0", ANONYMOUS)


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
    caller = asyncio.create_task(store.upkeep.snapshot("a", "s", ANONYMOUS))
    await asyncio.wait([caller])
    async with asyncio.timeout(PATIENCE_S):
        await store.upkeep.settled()
    assert list(store.snapshots.iterdir()) == []


async def test_a_restore_whose_caller_left_makes_no_collection(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.made("a")
    await store.upkeep.snapshot("a", "s", ANONYMOUS)
    copying, released = threading.Event(), threading.Event()
    sha256 = snapshot_files._sha256

    def stalled(*args: Any) -> str:
        copying.set()
        assert released.wait(PATIENCE_S)
        return sha256(*args)

    monkeypatch.setattr(snapshot_files, "_sha256", stalled)
    caller = asyncio.create_task(store.upkeep.restore("s", "b", ANONYMOUS))
    assert await asyncio.to_thread(copying.wait, PATIENCE_S)
    caller.cancel()
    await asyncio.wait([caller])
    released.set()
    async with asyncio.timeout(PATIENCE_S):
        await store.upkeep.settled()
    assert [path.name for path in store.files_of("").iterdir()] == ["a"]
    with pytest.raises(NotFound):
        store.collections.get("b")
    assert await store.upkeep.restore("s", "b", ANONYMOUS) == 1


async def test_a_check_leaves_builds_and_searches_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    checking, released = threading.Event(), threading.Event()
    verify = collection._log.check

    def stalled(**more: Any) -> Any:
        checking.set()
        assert released.wait(PATIENCE_S)
        return verify(**more)

    monkeypatch.setattr(collection._log, "check", stalled)
    callers = [asyncio.create_task(store.upkeep.verify("a", ANONYMOUS)) for _ in range(4000)]
    assert await asyncio.to_thread(checking.wait, PATIENCE_S)
    threads = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("upkeep") for name in threads) <= BOUNDS.upkeep_threads
    async with asyncio.timeout(PATIENCE_S):
        assert await found(collection) == ["r0"]
        await collection.compact_index()
        released.set()
        checked = await asyncio.gather(*callers)
    assert {(one.row_count, tuple(one.problems)) for one in checked} == {(1, ())}

"""Collections whose files are removed or replaced while they are served."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.collections.served_store import Store, found, spec, upsert
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import CollectionState
from vecserve_server.errors import FailedPrecondition


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
    assert lost.standing.state is CollectionState.DOWN
    assert store.up("lost") == 0.0
    assert await found(lost) == ["r0"]
    with pytest.raises(FailedPrecondition):
        await store.upkeep.snapshot("lost", "monday", ANONYMOUS)
    for look_after in (store.upkeep.verify, store.upkeep.compact):
        with pytest.raises(FailedPrecondition, match=r"'lost' (are gone|were replaced) while they"):
            await look_after("lost", ANONYMOUS)
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


async def test_a_manifest_that_is_gone_is_written_anew(store: Store) -> None:
    collection = await store.made("a")
    manifest = store.files_of("a") / "MANIFEST"
    content = manifest.read_bytes()
    manifest.unlink()
    await store.watching.look()
    assert manifest.read_bytes() == content
    assert collection.standing.state is CollectionState.SERVING


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
        await store.upkeep.snapshot("a", "monday", ANONYMOUS)
    assert [path.name for path in store.root.rglob("*")] == ["collections"]


async def test_lost_segments_degrade_a_collection_that_is_written_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = await store.made("a")
    monkeypatch.setattr(collection._index, "lost_folders", lambda: ["segment-1"])
    await store.watching.look()
    assert collection.standing.state is CollectionState.DEGRADED
    assert "no row is lost" in collection.standing.reason
    assert store.up("a") == 1.0
    await collection.write([upsert(1)])

"""What `verify` sees, and what making the files anew brings back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.crash.bit_flips import SPECS, row
from tests.crash.store import Store, opened
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.conditions import OneOf
from vecserve_server.domain.searching import Mode, Wanted
from vecserve_server.errors import CorruptData
from vecserve_server.storage.rows.operations import Delete, Upsert

ROWS = 40
NAME = SPECS[0].name
DAMAGES = {
    "word index": "DELETE FROM words_docsize WHERE id = 7",
    "word index: does not hold": "INSERT INTO words (rowid, text_0) VALUES (99, 'shoes')",
    "word index: does not": "UPDATE words_idx SET term = x'3061' WHERE segid = 1",
    "the index of field 'brand'": """
        PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET rootpage = (
            SELECT sum(rootpage) FROM sqlite_master WHERE name IN ('rows_field_1', 'rows_field_2')
        ) - rootpage WHERE name IN ('rows_field_1', 'rows_field_2');
    """,
    "schema: rows_field_2": """
        PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', 'NOT 5')
        WHERE name = 'rows_field_2';
    """,
    "counts as removed": "INSERT INTO removed (seq) VALUES (5)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed data folder with rows."""
    root = tmp_path_factory.mktemp("data")

    async def fill() -> None:
        async with opened(root) as store:
            collection = await store.collections.create(SPECS[0])
            await collection.write([Upsert(row(number)) for number in range(ROWS)])
            await collection.write([Delete("id3")])

    asyncio.run(fill())
    return root


@pytest.fixture
async def store(folder: Path, tmp_path: Path) -> AsyncIterator[Store]:
    """That folder, open."""
    root = tmp_path / "data"
    shutil.copytree(folder, root)
    async with opened(root) as store:
        yield store


def damage(store: Store, script: str) -> None:
    path = store.folder.collection_folder(NAME) / "1" / "rows.sqlite"
    with sqlite3.connect(path) as raw:
        raw.executescript(script)
    raw.close()


async def holders(collection: Collection, word: str) -> set[str]:
    found = await collection.retrieve([Asked(text=word)], Wanted(k=ROWS, mode=Mode.LEXICAL))
    return {hit.id for hit in found.answers[0].hits}


async def expect_right_answers(store: Store) -> None:
    collection = store.collections.get(NAME)
    assert not (await store.upkeep.verify(NAME, ANONYMOUS)).problems
    assert await holders(collection, "number7") == {"id7"}
    assert await collection.count(OneOf(field="brand", values=("brand7",))) == 4
    assert collection.live_rows == ROWS - 1


@pytest.mark.parametrize("named", DAMAGES)
async def test_what_was_made_of_the_rows_is_compared_with_them_and_made_anew(
    store: Store, named: str
) -> None:
    damage(store, DAMAGES[named])
    found = await store.upkeep.verify(NAME, ANONYMOUS)
    assert any(named in problem for problem in found.problems), found.problems
    assert not found.has_damaged_rows
    mended = await store.upkeep.verify(NAME, ANONYMOUS, repairs=True)
    assert (mended.problems, list(mended.repaired)) == ([], found.problems)
    await expect_right_answers(store)
    seqs = await store.collections.get(NAME).seqs()
    assert seqs.tolist() == [seq for seq in range(1, ROWS + 1) if seq != 4]


async def test_compaction_makes_anew_what_is_damaged(store: Store) -> None:
    damage(store, DAMAGES["word index"])
    await store.upkeep.compact(NAME, ANONYMOUS)
    await expect_right_answers(store)


async def test_damaged_rows_are_named_and_nothing_is_made_of_them(store: Store) -> None:
    damage(store, "UPDATE rows SET payload = replace(payload, 'number7', 'number8') WHERE seq = 8")
    damage(store, DAMAGES["word index"])
    for repairs in (False, True):
        found = await store.upkeep.verify(NAME, ANONYMOUS, repairs=repairs)
        assert found.has_damaged_rows
        assert "row seq 8, id 'id7': the checksum is wrong" in found.problems
    collection = store.collections.get(NAME)
    await collection.write([Upsert(row(7))])
    assert not (await store.upkeep.verify(NAME, ANONYMOUS, repairs=True)).problems
    await expect_right_answers(store)


async def test_a_row_that_is_gone_from_the_table_alone_is_named(store: Store) -> None:
    damage(
        store,
        """
        CREATE TABLE other (id TEXT NOT NULL UNIQUE, seq INTEGER PRIMARY KEY);
        INSERT INTO other (id, seq) SELECT id, seq FROM rows;
        INSERT INTO other (id, seq) VALUES ('ghost', 999);
        PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET rootpage = (
            SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_other_1'
        ) WHERE name = 'sqlite_autoindex_rows_1';
        """,
    )
    found = await store.upkeep.verify(NAME, ANONYMOUS, repairs=True)
    assert "row seq 999, id 'ghost': its record is lost" in found.problems
    assert found.has_lost_rows
    with pytest.raises(CorruptData, match="rows cannot be read"):
        await store.upkeep.compact(NAME, ANONYMOUS)


async def test_rows_written_during_a_repair_are_kept(store: Store) -> None:
    damage(store, DAMAGES["word index"])
    repair = asyncio.create_task(store.upkeep.verify(NAME, ANONYMOUS, repairs=True))
    written = 0
    while not repair.done():
        collection = store.collections.get(NAME)
        await store.collections.using(
            collection.spec.name,
            lambda found: found.write([Upsert(row(1000 + written))]),  # noqa: B023
        )
        written += 1
    assert not (await repair).problems
    ids = [f"id{1000 + number}" for number in range(written)]
    rows = await store.collections.get(NAME).get(ids, with_vectors=True)
    assert rows.keys() == set(ids)
    assert all(np.isfinite(one.vector).all() for one in rows.values() if one.vector is not None)

"""Generations with everything that they carry: fields, words, sealed segments; and their end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.index.oracle import UNMEASURED, InlineBuilder, options
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.collections.rebuilding import Rebuild, copy_row
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import CollectionSpec, FieldSpec, FieldType
from vecserve_server.domain.conditions import OneOf
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.domain.searching import Mode, Wanted
from vecserve_server.domain.vectors import ModelRef, Vectors
from vecserve_server.errors import NotFound, Superseded
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.opening import Indexes
from vecserve_server.index.vectors.planning import Thresholds
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.services.reindex_rules import next_number, serving
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.folders.manifest import Generation, Manifest, Retired
from vecserve_server.storage.rows.operations import Delete, Upsert
from vecserve_server.storage.rows.writer import RowWriter

DIM, ROWS = 16, 200
PATIENCE_S = 60.0
SPEC = CollectionSpec(
    name="docs",
    model=ModelRef(name="m", version="1", digest="0" * 64),
    dim=DIM,
    created_unix_ms=0,
    fields=(
        FieldSpec(name="title", type=FieldType.TEXT),
        FieldSpec(name="colour", type=FieldType.KEYWORD),
    ),
)


@pytest.fixture
def maintenance() -> Iterator[IndexMaintenance]:
    made = IndexMaintenance(process=InlineBuilder(), costs=UNMEASURED)
    made.start()
    yield made
    assert made.stop(PATIENCE_S)


@pytest.fixture
async def collections(tmp_path: Path, maintenance: IndexMaintenance) -> AsyncIterator[Collections]:
    """Collections that seal their rows from 100 on."""
    writer = RowWriter(queue_rows=1000, group_rows=100, on_death=lambda _: None)
    writer.start()
    indexes = Indexes(
        maintenance=maintenance,
        options=options(thresholds=Thresholds(first_rows=100, delta_rows=100)),
    )
    with DataFolder.open(tmp_path / "data") as folder, ThreadPoolExecutor(2) as pool:
        made = Collections(
            folder=folder,
            writer=writer,
            search_pool=pool,
            indexes=indexes,
            max_collections=3,
            clock_ns=time.perf_counter_ns,
            metrics=make_metrics(),
        )
        yield made
        assert await made.close(PATIENCE_S)
    writer.drain(PATIENCE_S)


def vector_of(number: int) -> Vectors:
    made = np.random.default_rng(number).standard_normal(DIM).astype(np.float32)
    unit: Vectors = made / np.linalg.norm(made)
    return unit


def word_of(number: int) -> str:
    """Make a word that hardly shares a beginning with others, which an index would leave out."""
    return hashlib.sha256(bytes([number])).hexdigest()[:16]


def upserts(numbers: Iterable[int]) -> list[Upsert]:
    return [
        Upsert(
            NewRow(
                id=f"r{number}",
                vector=vector_of(number),
                payload_json=json.dumps(
                    {"colour": ["red", "blue"][number % 2], "title": f"thing {word_of(number)}"}
                ),
                source=Source(text=f"text-of-{number}."),
            )
        )
        for number in numbers
    ]


async def sealed(maintenance: IndexMaintenance, collection: Collection) -> None:
    """Wait until the collection's rows are sealed."""
    assert await asyncio.to_thread(maintenance.settled, PATIENCE_S)
    assert collection.index_stats.sealed_rows


async def filled(collections: Collections, maintenance: IndexMaintenance) -> Collection:
    collection = await collections.create(SPEC)
    await collection.write(upserts(range(ROWS)))
    await sealed(maintenance, collection)
    return collection


async def copy(rows: Sequence[Row], sources: Mapping[int, Source]) -> Mapping[int, NewRow]:
    return {row.seq: copy_row(row, sources.get(row.seq)) for row in rows}


async def flipped(collections: Collections, live: Collection) -> Collection:
    """Copy into a new generation and let it serve."""
    manifest = collections.manifest("docs")
    model = replace(SPEC.model, version="2", digest="1" * 64)
    generation = Generation(number=next_number(manifest), model=model, dim=DIM)
    target = await collections.open_generation(live, generation)
    rebuild = Rebuild(source=live, target=target, make_rows=copy)
    await rebuild.begin()
    await rebuild.follow()
    await rebuild.finish()
    rebuild.end()

    def change(now: Manifest) -> Manifest:
        retired = Retired(generation=now.live, retired_unix_ms=0)
        return replace(serving(now, generation), previous=retired)

    await collections.flip(live, target, change)
    return target


async def found(collection: Collection, **wanted: object) -> list[str]:
    asked = Asked(vector=vector_of(7), text=word_of(7))
    retrieved = await collection.retrieve([asked], Wanted(k=3, **wanted))  # type: ignore[arg-type]
    return [hit.id for hit in retrieved.answers[0].hits]


def files_with(root: Path, content: bytes) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file() and content in p.read_bytes()]


async def test_a_new_generation_has_the_fields_the_words_and_segments_of_its_own(
    collections: Collections, maintenance: IndexMaintenance, tmp_path: Path
) -> None:
    live = await filled(collections, maintenance)
    await live.write([Delete("r3")])
    target = await flipped(collections, live)
    await sealed(maintenance, target)
    assert collections.get("docs") is target
    assert await found(target, mode=Mode.LEXICAL) == ["r7"]
    assert (await found(target))[0] == "r7"
    red = OneOf(field="colour", values=("red",))
    assert await target.count(red) == ROWS // 2
    assert "r7" not in await found(target, condition=red)
    assert (tmp_path / "data/collections/docs/2/segments/MANIFEST").exists()
    await target.write([Delete("r7")])
    assert await found(target, mode=Mode.LEXICAL) == []
    checked = await target.verify()
    assert (checked.row_count, checked.problems) == (ROWS - 2, [])
    with pytest.raises(Superseded):
        await live.write(upserts([1]))
    assert collections.index_stats()["docs"] == target.index_stats


async def test_compaction_erases_rows_from_segments_words_and_the_generation_before(
    collections: Collections, maintenance: IndexMaintenance, tmp_path: Path
) -> None:
    target = await flipped(collections, await filled(collections, maintenance))
    await sealed(maintenance, target)
    traces = [word_of(7)[4:].encode(), b"text-of-7.", vector_of(7).astype("<f2").tobytes()]
    assert all(files_with(tmp_path, trace) for trace in traces)
    await target.write([Delete("r7")])
    service = UpkeepService(collections=collections, snapshots=tmp_path / "snapshots")
    assert await service.compact("docs", ANONYMOUS) >= 0
    assert [files_with(tmp_path, trace) for trace in traces] == [[], [], []]
    assert (await service.verify("docs", ANONYMOUS)).problems == []
    assert target.index_stats.dead_rows == 0


async def test_a_snapshot_brings_back_fields_words_and_texts(
    collections: Collections, maintenance: IndexMaintenance, tmp_path: Path
) -> None:
    live = await filled(collections, maintenance)
    await live.write([Delete("r3")])
    service = UpkeepService(collections=collections, snapshots=tmp_path / "snapshots")
    await service.snapshot("docs", "monday", ANONYMOUS)
    assert await service.restore("monday", "copy", ANONYMOUS) == ROWS - 1
    restored = collections.get("copy")
    assert restored.spec == replace(SPEC, name="copy")
    assert await found(restored, mode=Mode.LEXICAL) == ["r7"]
    assert await restored.count(OneOf(field="colour", values=("blue",))) == ROWS // 2 - 1
    assert await restored.without_source() == []
    await sealed(maintenance, restored)
    assert (await service.verify("copy", ANONYMOUS)).problems == []


async def test_a_discarded_generation_is_closed_before_its_folder_goes(
    collections: Collections, maintenance: IndexMaintenance, tmp_path: Path
) -> None:
    live = await filled(collections, maintenance)
    target = await flipped(collections, live)
    await collections.record(target, lambda now: replace(now, previous=None))
    await collections.discard(target)
    with pytest.raises(Superseded):
        await live.seqs()
    folder = tmp_path / "data/collections/docs"
    assert sorted(path.name for path in folder.iterdir()) == ["2", "MANIFEST"]
    assert (await found(target))[0] == "r7"


async def test_a_drop_closes_every_generation(
    collections: Collections, maintenance: IndexMaintenance, tmp_path: Path
) -> None:
    live = await filled(collections, maintenance)
    number = next_number(collections.manifest("docs"))
    other = await collections.open_generation(
        live, Generation(number=number, model=SPEC.model, dim=DIM)
    )
    assert await collections.drop("docs") == ROWS
    for dropped in (live, other):
        with pytest.raises(NotFound):
            await dropped.seqs()
    assert list((tmp_path / "data/collections").iterdir()) == []
    with pytest.raises(NotFound):
        await other.replicate({}, [], last_seq=1)
    await collections.release(other)
    await collections.create(SPEC)

"""The real store without a server: a data folder, its collections, their indexes; builds inline.

Owns how it is opened, and the comparison of everything that it answers with the model.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.testing as npt
from numpy.typing import NDArray

from tests.crash.model import (
    DIM,
    WORDS,
    Possible,
    State,
    Transaction,
    operations_of,
    row_of,
    vector_of,
)
from tests.index.oracle import InlineBuilder
from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.collections.rebuilding import copy_row
from vecserve_server.domain.caller import ANONYMOUS
from vecserve_server.domain.collections import CollectionSpec, FieldSpec, FieldType
from vecserve_server.domain.conditions import Bounds, NumberIn
from vecserve_server.domain.rows import NewRow, Row, Source
from vecserve_server.domain.searching import Mode, Wanted
from vecserve_server.domain.vectors import ModelRef, Vectors
from vecserve_server.errors import StorageError, VecserveError
from vecserve_server.index.building.build_job import BuildJob
from vecserve_server.index.building.builder_process import Builder
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.opening import Indexes
from vecserve_server.index.segmented_index import IndexOptions, SegmentedIndex
from vecserve_server.index.vectors.planning import Costs, Thresholds
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.services import reindexing as reindexing_module
from vecserve_server.services.reindexing import ReindexingService
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.serving.catalog import Catalog
from vecserve_server.serving.model_versions import ServedModel
from vecserve_server.settings.settings import ReindexSettings
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.rows.writer import RowWriter

NAME = "docs"
TIMEOUT_S = 60.0
MODELS = (
    ModelRef(name="m", version="1", digest="0f" * 32),
    ModelRef(name="m", version="2", digest="1e" * 32),
)
SPEC = CollectionSpec(
    name=NAME,
    model=MODELS[0],
    dim=DIM,
    created_unix_ms=7,
    fields=(
        FieldSpec(name="n", type=FieldType.INTEGER),
        FieldSpec(name="text", type=FieldType.TEXT),
    ),
)
SMALL = Thresholds(first_rows=12, delta_rows=8, least_dead_rows=4)
K = 10


class FixedCosts(MeasuredCosts):
    """No measuring in every fork."""

    def measure(self, dim: int) -> Costs:
        return Costs()


class FailingBuilder(InlineBuilder):
    """Whatever ends the build in this process would end the builder's process."""

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        try:
            super().run(folder, timeout_s=timeout_s, given_up=given_up)
        except VecserveError:
            raise
        except Exception as error:
            raise StorageError(f"{folder}: the builder ended with 1: {error}") from error


@dataclass(slots=True, kw_only=True)
class Store:
    """An open data folder. Loop only."""

    folder: DataFolder
    collections: Collections
    reindexing: ReindexingService
    upkeep: UpkeepService

    @property
    def collection(self) -> Collection:
        """The collection of the tests."""
        return self.collections.get(NAME)

    @property
    def index(self) -> SegmentedIndex:
        """Its index."""
        index = self.collection._index
        assert isinstance(index, SegmentedIndex)
        return index

    async def write(self, transaction: Transaction) -> None:
        """Write with the vectors of the model that serves; return when it is acknowledged."""

        async def use(collection: Collection) -> None:
            await collection.write(operations_of(transaction, collection.spec.model.version))

        await self.collections.using(NAME, use)

    async def reindexed(self) -> None:
        """Wait for the end of what re-indexes."""
        await self.reindexing.settled()


@asynccontextmanager
async def opened(root: Path, *, builder: Builder | None = None) -> AsyncIterator[Store]:
    """Open the data folder `root` as a server does. Raises what opening raises."""
    maintenance = IndexMaintenance(process=builder or FailingBuilder())
    maintenance.costs = FixedCosts()
    deaths: list[BaseException] = []
    writer = RowWriter(queue_rows=1000, group_rows=100, on_death=deaths.append)
    hours = itertools.count()
    options = IndexOptions(
        thresholds=lambda _: SMALL,
        exact_rows=20,
        job=BuildJob(dim=0, sources=(), rotated_rows=30, least_recall=0.0),
        # Whatever failed may be tried again at the next look.
        clock_s=lambda: 3600.0 * next(hours),
    )
    with (
        mock.patch.object(reindexing_module, "rows_with", rows_with),
        DataFolder.open(root) as folder,
        ThreadPoolExecutor(2) as pool,
    ):
        collections = Collections(
            folder=folder,
            writer=writer,
            search_pool=pool,
            indexes=Indexes(maintenance=maintenance, options=options),
            max_collections=9,
            clock_ns=time.perf_counter_ns,
            metrics=make_metrics(),
        )
        upkeep = UpkeepService(collections=collections, snapshots=root / "snapshots")
        reindexing = reindexing_of(collections)
        try:
            await collections.open_all()
            upkeep.open()
            writer.start()
            reindexing.open()
            yield Store(
                folder=folder, collections=collections, reindexing=reindexing, upkeep=upkeep
            )
            assert not deaths, deaths
        finally:
            await reindexing.close()
            writer.drain(TIMEOUT_S)
            await collections.close(TIMEOUT_S)


def reindexing_of(collections: Collections) -> ReindexingService:
    """Make the service with two versions of a model, which it asks for nothing but their names."""
    catalog = Catalog(default=MODELS[0].name)
    for ref in MODELS:
        text: Any = SimpleNamespace(ref=ref, config=SimpleNamespace(dim=DIM))
        served: Any = SimpleNamespace(text=text)
        loaded: Any = SimpleNamespace(name=ref.name, version=ref.version, text=served)
        catalog.put(loaded)
    embedding: Any = None
    return ReindexingService(
        collections=collections,
        embedder=embedding,
        catalog=catalog,
        settings=ReindexSettings(on_new_version="ignore"),
        release_models=lambda: None,
        wall_clock_ms=lambda: 1,
    )


def rows_with(
    embedding: object, served: ServedModel | None, *, dim: int
) -> Callable[..., Awaitable[Mapping[int, NewRow]]]:
    """Make rows as the product does, of sources that are numbers."""

    async def make(rows: Sequence[Row], sources: Mapping[int, Source]) -> Mapping[int, NewRow]:
        if served is None:
            return {row.seq: copy_row(row, sources.get(row.seq)) for row in rows}
        version = served.text.ref.version
        return {row.seq: row_of(row.id, int(sources[row.seq].text), version) for row in rows}

    return make


async def read_state(collection: Collection) -> State:
    """Read all rows, page by page; each must be what was written under its number."""
    state: dict[str, int] = {}
    after_seq = 0
    while rows := await collection.scan(after_seq, 7, with_vectors=True):
        for row in rows:
            assert row.id not in state, f"{row.id} is there twice"
            state[row.id] = int(json.loads(row.payload_json)["n"])
            assert row.vector is not None
            vector = vector_of(state[row.id], collection.spec.model.version)
            assert (row.vector == vector.astype(np.float16)).all()
        after_seq = rows[-1].seq
    return state


async def check(store: Store, possible: Possible) -> None:
    """Compare all answers of the collection with the model."""
    collection = store.collection
    possible.is_now(await read_state(collection))
    [state] = possible.states
    assert collection.live_rows == len(state)
    found = await collection.get(sorted(state), with_vectors=False)
    assert {row_id: json.loads(row.payload_json)["n"] for row_id, row in found.items()} == state
    await _check_nearest(collection, state)
    await _check_conditions(collection, state)


async def check_after_all(store: Store, possible: Possible, more: Sequence[Transaction]) -> None:
    """Check; go on writing, building and compacting; check again: nothing is left behind."""
    await check(store, possible)
    await store.reindexed()
    await check(store, possible)
    for transaction in more:
        await store.write(transaction)
        possible.acknowledged(transaction)
    await asyncio.to_thread(store.index.maintain)
    await check(store, possible)
    await store.upkeep.compact(NAME, ANONYMOUS)
    await check(store, possible)
    assert not (await store.upkeep.verify(NAME, ANONYMOUS)).problems
    needed = {str(needed.number) for needed in store.collections.manifest(NAME).needed}
    folder = store.folder.collection_folder(NAME)
    assert {path.name for path in folder.iterdir()} == needed | {"MANIFEST"}
    left = [path for path in store.folder.path.rglob("*") if _is_leftover(path)]
    assert not left, left


async def _check_nearest(collection: Collection, state: State) -> None:
    ids = sorted(state)
    version = collection.spec.model.version
    vectors = np.array([vector_of(state[row_id], version) for row_id in ids], np.float32)
    vectors = vectors.reshape(-1, DIM)
    asked = [Asked(vector=vector) for vector in [*vectors, *map(vector_of, range(5))]]
    exactly = Wanted(k=K, min_score=None, with_payload=False, exact=True)
    near = await collection.retrieve(asked, exactly)
    stored = vectors.astype(np.float16).astype(np.float32)
    for one, answer in zip(asked, near.answers.values(), strict=True):
        assert one.vector is not None
        scores = dict(zip(ids, _cosines(stored, one.vector), strict=True))
        best = sorted(scores.values(), reverse=True)[:K]
        npt.assert_allclose([hit.score for hit in answer.hits], best, atol=1e-3)
        npt.assert_allclose([scores[hit.id] for hit in answer.hits], best, atol=1e-3)
    usual = await collection.retrieve(asked[: len(ids)], Wanted(k=K, min_score=None))
    for row_id, answer in zip(ids, usual.answers.values(), strict=True):
        hits = [hit.id for hit in answer.hits]
        assert row_id in hits, f"{row_id} does not find itself"
        assert set(hits) <= set(ids)
        assert len(hits) == len(set(hits))


async def _check_conditions(collection: Collection, state: State) -> None:
    numbers = sorted(state.values())
    for bound in numbers[::7]:
        above = NumberIn(field="n", bounds=Bounds(gte=float(bound)))
        assert await collection.count(above) == sum(number >= bound for number in numbers)
    for word in range(WORDS if collection.spec.has_text_fields else 0):
        wanted = Wanted(k=100, min_score=None, mode=Mode.LEXICAL)
        found = await collection.retrieve([Asked(text=f"word{word}")], wanted)
        holders = {row_id for row_id, number in state.items() if number % WORDS == word}
        assert {hit.id for hit in found.answers[0].hits} == holders


def check_refusal(root: Path, error: VecserveError) -> None:
    """An error names what is wrong: a file below `root`, or a row."""
    assert str(root) in str(error) or "row seq" in str(error), error


def set_aside(root: Path) -> list[Path]:
    """List the segments that were found damaged."""
    return list(root.rglob("*.damaged"))


def _cosines(stored: Vectors, query: NDArray[np.float32]) -> list[float]:
    scores: list[float] = (stored @ query / np.linalg.norm(stored, axis=1)).tolist()
    return scores


def _is_leftover(path: Path) -> bool:
    return path.name.endswith((".unfinished", ".removed", ".damaged", "-journal"))

"""Collections with their upkeep and the watch over their files, as a server has them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vecserve_server.collections.collection import Collection
from vecserve_server.collections.collections import Collections
from vecserve_server.collections.hits.retrieval import Asked
from vecserve_server.collections.opening import Bounds
from vecserve_server.domain.collections import CollectionSpec, FieldSpec, FieldType
from vecserve_server.domain.conditions import Exists
from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.searching import Wanted
from vecserve_server.domain.vectors import ModelRef
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.opening import Indexes
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.index.vectors.planning import Thresholds
from vecserve_server.observability.metrics import make_metrics
from vecserve_server.services.upkeep import UpkeepService
from vecserve_server.services.watching import Watching
from vecserve_server.storage.folders.data_folder import DataFolder
from vecserve_server.storage.payloads.filter_sql import Sql
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.writer import RowWriter

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


async def found(collection: Collection) -> list[str]:
    asked = [Asked(vector=np.eye(DIM, dtype=np.float32)[0])]
    retrieved = await collection.retrieve(asked, Wanted(k=9))
    return [hit.id for hit in retrieved.answers[0].hits]

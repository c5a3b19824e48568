"""A row log and an index, as a collection has them.

The one module here that knows how rows are committed and indexes opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.opening import open_index
from vecserve_server.index.segmented_index import IndexOptions, SegmentedIndex
from vecserve_server.measuring.index.data import Rows, Vectors
from vecserve_server.storage.rows.operations import Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog

PAGE_ROWS = 1024


@dataclass(slots=True, kw_only=True)
class Subject:
    """Rows are called by their numbers; `rows_of` turns seqs back into them."""

    folder: Path
    dim: int
    log: RowLog
    index: SegmentedIndex
    maintenance: IndexMaintenance
    number_of: dict[int, int]
    open_s: float

    @classmethod
    def open(
        cls,
        folder: Path,
        dim: int,
        options: IndexOptions | None = None,
        number_of: dict[int, int] | None = None,
    ) -> Subject:
        """Open or create, with the rows' numbers as they were; a thread maintains the index."""
        maintenance = IndexMaintenance()
        maintenance.start()
        began_s = time.perf_counter()
        log = RowLog.open(folder / "rows.sqlite", dim=dim, model_digest="0f")
        index = open_index(
            folder / "segments",
            dim=dim,
            rows=log,
            maintenance=maintenance,
            options=options or IndexOptions(),
        )
        return cls(
            folder=folder,
            dim=dim,
            log=log,
            index=index,
            maintenance=maintenance,
            number_of=number_of or {},
            open_s=time.perf_counter() - began_s,
        )

    def close(self) -> None:
        """Stop the thread and close the files."""
        self.index.close()
        self.maintenance.stop(60)
        self.log.close()

    def write(self, numbers: Sequence[int], vectors: Vectors) -> None:
        """Upsert rows in one transaction, durably."""
        self.commit(
            [
                Upsert(NewRow(id=str(number), vector=vector, payload_json='{"title":"some row"}'))
                for number, vector in zip(numbers, vectors, strict=True)
            ],
            numbers,
        )

    def delete(self, numbers: Sequence[int]) -> None:
        """Delete rows in one transaction, durably."""
        self.commit([Delete(str(number)) for number in numbers], ())

    def commit(self, operations: Sequence[Operation], numbers: Sequence[int]) -> None:
        """Commit, publish, remember the seqs."""
        committed = self.log.commit(operations)
        self.index.apply(
            added_seqs=committed.added_seqs,
            added_vectors=committed.added_vectors,
            removed_seqs=committed.removed_seqs,
        )
        if numbers:
            self.number_of.update(zip(committed.added_seqs.tolist(), numbers, strict=True))

    def load(self, vectors: Vectors) -> None:
        """Write all rows, numbered from 0."""
        for start in range(0, len(vectors), PAGE_ROWS):
            some = vectors[start : start + PAGE_ROWS]
            self.write(range(start, start + len(some)), some)

    def settle(self) -> None:
        """Build all that is due. Raises VecserveError, RuntimeError if that fails."""
        if not self.index.maintain():
            raise RuntimeError("a build failed; the log says why")

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> list[Rows]:
        """Find the seqs of the nearest rows of each query, float32 [N, D]."""
        found = self.index.search(queries, k, allowed=allowed, exact=exact)
        return [neighbours.seqs for neighbours in found]

    def search_one(self, query: Vectors, k: int, *, exact: bool = False) -> Rows:
        """Find the seqs of the nearest rows of one query, float32 [D]."""
        [seqs] = self.search(query[np.newaxis], k, exact=exact)
        return seqs

    def find_rows(self) -> None:
        """Learn the numbers of rows that were written before, as `load` gave them."""
        self.number_of.update({seq: n for n, seq in enumerate(self.log.seqs().tolist())})

    def seqs_of(self, numbers: Rows) -> NDArray[np.int64]:
        """Turn the numbers of rows, of which none was replaced, into seqs."""
        by_number = sorted(self.number_of.items(), key=lambda pair: pair[1])
        seqs = np.array([seq for seq, _ in by_number], np.int64)
        return seqs[numbers]

    def rows_of(self, seqs: NDArray[np.int64]) -> Rows:
        """Turn seqs into the numbers of rows."""
        return np.array([self.number_of[seq] for seq in seqs.tolist()], np.int64)

    @contextmanager
    def arriving(self, vectors: Vectors, rows_per_s: int, batch: int = 32) -> Iterator[list[int]]:
        """Write rows at a steady rate beside what the block does; yields what was written."""
        stop, written = threading.Event(), [0]

        def write() -> None:
            began_s, first = time.perf_counter(), len(self.number_of)
            while not stop.is_set() and written[0] + batch <= len(vectors):
                start = written[0]
                numbers = range(first + start, first + start + batch)
                self.write(numbers, vectors[start : start + batch])
                written[0] += batch
                stop.wait(max(0.0, began_s + written[0] / rows_per_s - time.perf_counter()))

        writer = threading.Thread(target=write, name="ingest")
        writer.start()
        try:
            yield written
        finally:
            stop.set()
            writer.join()

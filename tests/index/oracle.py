"""A collection in small: a real row log, a segmented index, and a dictionary that knows better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import Draining
from vecserve_server.index.building.build_job import BuildJob, read_job
from vecserve_server.index.building.builder import build
from vecserve_server.index.building.maintenance import IndexMaintenance
from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.opening import open_index
from vecserve_server.index.segmented_index import IndexOptions, SegmentedIndex
from vecserve_server.index.vectors.planning import Costs, Thresholds
from vecserve_server.storage.rows.operations import Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog

SMALL = Thresholds(first_rows=8, delta_rows=6, least_dead_rows=3)

PATIENCE_S = 20.0
ROWS = 60

UNMEASURED = MeasuredCosts(lambda _: Costs())


class InlineBuilder:
    """Builds without a process of its own, which takes half a second to start."""

    def run(self, folder: Path, *, timeout_s: float, given_up: Callable[[], bool]) -> None:
        if given_up():
            raise Draining("given up")
        build(folder, read_job(folder))

    def stop(self) -> None:
        """Nothing runs between calls."""


def options(
    *, thresholds: Thresholds = SMALL, step: Callable[[str], None] = lambda _: None
) -> IndexOptions:
    return IndexOptions(
        thresholds=lambda _: thresholds,
        exact_rows=20,
        job=BuildJob(dim=0, sources=(), rotated_rows=30, least_recall=0.0),
        step=step,
    )


@dataclass(slots=True, kw_only=True)
class Small:
    """The log, the index, and what must be in them."""

    folder: Path
    dim: int
    options: IndexOptions = field(default_factory=options)
    maintenance: IndexMaintenance = field(
        default_factory=lambda: IndexMaintenance(process=InlineBuilder(), costs=UNMEASURED)
    )
    expected: dict[str, tuple[int, NDArray[np.float16]]] = field(default_factory=dict)
    log: RowLog = field(init=False)
    index: SegmentedIndex = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    @property
    def segments(self) -> Path:
        return self.folder / "segments"

    def open(self) -> None:
        self.log = RowLog.open(
            self.folder / "rows.sqlite", dim=self.dim, model_digest="0f", readers=1
        )
        self.index = open_index(
            self.segments,
            dim=self.dim,
            rows=self.log,
            maintenance=self.maintenance,
            options=self.options,
        )

    def close(self) -> None:
        self.index.close()
        self.log.close()

    def restart(self, **changed: object) -> None:
        self.close()
        self.options = replace(self.options, **changed)  # type: ignore[arg-type]
        self.open()

    def commit(self, operations: Sequence[Operation]) -> None:
        committed = self.log.commit(operations)
        self.index.apply(
            added_seqs=committed.added_seqs,
            added_vectors=committed.added_vectors,
            removed_seqs=committed.removed_seqs,
        )
        for operation, seq in zip(operations, committed.seqs, strict=True):
            self.expected.pop(operation.id, None)
            if isinstance(operation, Upsert):
                assert isinstance(seq, int)
                self.expected[operation.id] = seq, operation.row.vector.astype(np.float16)

    def upsert(self, ids: Sequence[str], vectors: Vectors) -> None:
        self.commit(
            [
                Upsert(NewRow(id=id_, vector=vector, payload_json="{}"))
                for id_, vector in zip(ids, vectors, strict=True)
            ]
        )

    def delete(self, ids: Sequence[str]) -> None:
        self.commit([Delete(id_) for id_ in ids])

    def seqs(self) -> NDArray[np.int64]:
        return np.array(sorted(seq for seq, _ in self.expected.values()), np.int64)

    def true_scores(self, query: NDArray[np.float32]) -> dict[int, float]:
        return {seq: cosine(query, vector) for seq, vector in self.expected.values()}

    def check_exactly(self, query: NDArray[np.float32], k: int) -> None:
        """An exact search returns what the dictionary says."""
        scores = self.true_scores(query)
        [found] = self.index.search(query[np.newaxis], k, exact=True)
        assert len(found.seqs) == min(k, len(scores))
        best = sorted(scores.values(), reverse=True)[:k]
        np.testing.assert_allclose(found.scores, best, atol=1e-3)
        check_scores(found.seqs, found.scores, scores)

    def check_every_row_finds_itself(self, k: int = 10) -> None:
        seqs = [seq for seq, _ in self.expected.values()]
        vectors = [vector.astype(np.float32) for _, vector in self.expected.values()]
        for seq, found in zip(seqs, self.index.search(np.stack(vectors), k), strict=True):
            assert seq in found.seqs or found.scores[-1] > 0.9999, seq
            assert np.isin(found.seqs, seqs).all()


def fill(small: Small, *, first: int = 0, rows: int = ROWS) -> None:
    """Write some rows, enough for a segment, under the ids from r`first` on."""
    ids = [f"r{number}" for number in range(first, first + rows)]
    small.upsert(ids, clustered(rows, small.dim, seed=first + 1))


def check_scores(
    seqs: NDArray[np.int64], scores: NDArray[np.float32], true: dict[int, float]
) -> None:
    """Every hit lives, has its true score and stands in its place."""
    for seq, score in zip(seqs.tolist(), scores.tolist(), strict=True):
        assert abs(true[seq] - score) < 1e-5
    order = list(zip((-scores).tolist(), seqs.tolist(), strict=True))
    assert order == sorted(order)


def cosine(query: NDArray[np.float32], vector: NDArray[np.float16]) -> float:
    a, b = query.astype(np.float64), vector.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def clustered(rows: int, dim: int, seed: int) -> Vectors:
    """Unit vectors around some centres, with a mean and outlying dimensions."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, dim))
    vectors = centres[random.integers(20, size=rows)] + 0.7 * random.standard_normal((rows, dim))
    vectors[:, 0] += 1
    vectors[:, 1] *= 3
    unit: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit

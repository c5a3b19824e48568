"""Sealed segments beside a delta, through writes, builds, restarts and losses."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.index.oracle import SMALL, Small, check_scores, clustered, options
from vecserve_server.domain.rows import NewRow
from vecserve_server.index.vectors.planning import Thresholds
from vecserve_server.storage.rows.operations import Delete, Operation, Upsert

DIM = 6
IDS = st.sampled_from([f"r{number}" for number in range(60)])
# Small whole numbers: many vectors are equal or parallel, so ties are tested too.
VECTORS = st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM).filter(any)
UPSERTS = st.builds(
    lambda id_, vector: Upsert(
        NewRow(
            id=id_,
            vector=(np.array(vector) / np.linalg.norm(vector)).astype(np.float32),
            payload_json="{}",
        )
    ),
    IDS,
    VECTORS,
)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Small]:
    made = Small(folder=tmp_path, dim=32)
    yield made
    made.close()


class SegmentsAndDelta(RuleBasedStateMachine):
    """Whatever is written, sealed and lost, the answers are those of a dictionary."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.small = Small(folder=Path(self.folder.name), dim=DIM)

    def teardown(self) -> None:
        self.small.close()
        self.folder.cleanup()

    @rule(operations=st.lists(st.one_of(UPSERTS, UPSERTS, st.builds(Delete, IDS)), max_size=20))
    def commit(self, operations: Sequence[Operation]) -> None:
        self.small.commit(operations)

    @rule()
    def maintain(self) -> None:
        self.small.index.maintain()

    @rule()
    def compact(self) -> None:
        self.small.index.compact()
        assert self.small.index.stats.dead_rows == 0
        assert not len(self.small.log.removed())

    @rule()
    def restart(self) -> None:
        self.small.restart()

    @precondition(lambda self: self.small.segments.exists())
    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        self.small.close()
        files = sorted(path for path in self.small.segments.rglob("*") if path.is_file())
        if files:
            path = data.draw(st.sampled_from(files))
            path.write_bytes(path.read_bytes()[:-1])
        self.small.open()

    @rule(query=VECTORS, k=st.integers(1, 25))
    def search(self, query: list[int], k: int) -> None:
        vector = np.array(query, np.float32)
        self.small.check_exactly(vector, k)
        [found] = self.small.index.search(vector[np.newaxis], k)
        scores = self.small.true_scores(vector)
        assert len(found.seqs) == min(k, len(scores))
        check_scores(found.seqs, found.scores, scores)

    @rule(query=VECTORS, k=st.integers(1, 25), exact=st.booleans(), data=st.data())
    def search_among(self, query: list[int], k: int, exact: bool, data: st.DataObject) -> None:
        everything = [*self.small.seqs().tolist(), 10_000]
        allowed = sorted(data.draw(st.sets(st.sampled_from(everything))))
        vector = np.array(query, np.float32)
        [found] = self.small.index.search(
            vector[np.newaxis], k, allowed=np.array(allowed, np.int64), exact=exact
        )
        scores = {s: v for s, v in self.small.true_scores(vector).items() if s in allowed}
        assert len(found.seqs) == min(k, len(scores))
        check_scores(found.seqs, found.scores, scores)

    @rule()
    def verify(self) -> None:
        verified = self.small.index.verify()
        assert verified.rows == len(self.small.expected)
        assert not verified.missing_seqs

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.small.index) == self.small.log.count() == len(self.small.expected)


SegmentsAndDelta.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
TestSegmentsAndDelta = SegmentsAndDelta.TestCase


def test_after_three_turnovers_every_row_is_found_and_no_dead_one(tmp_path: Path) -> None:
    rows, dim, at_once = 1200, 48, 100
    small = Small(
        folder=tmp_path,
        dim=dim,
        options=options(thresholds=Thresholds(first_rows=400, delta_rows=250, least_dead_rows=50)),
    )
    random = np.random.default_rng(1)
    ids = [f"r{number}" for number in range(rows)]
    for turn in range(4):
        vectors = clustered(rows, dim, seed=turn + 1)
        for some in np.split(random.permutation(rows), rows // at_once):
            if turn % 2:
                small.delete([ids[number] for number in some])
            small.upsert([ids[number] for number in some], vectors[some])
            small.index.maintain()
    small.check_every_row_finds_itself()
    assert not small.index.verify().missing_seqs
    assert small.index.stats.dead_rows <= 0.2 * small.index.stats.sealed_rows
    queries = clustered(50, dim, seed=99)
    recalls = []
    for query, found in zip(queries, small.index.search(queries, 10), strict=True):
        scores = small.true_scores(query)
        best = sorted(scores, key=lambda seq: -scores[seq])[:10]
        recalls.append(len(np.intersect1d(found.seqs, best)) / 10)
    assert np.mean(recalls) >= 0.99
    small.close()


@pytest.mark.parametrize("part", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("correlated", [False, True])
def test_a_filter_never_costs_hits_that_match(
    tmp_path: Path, part: float, correlated: bool
) -> None:
    rows, dim, k = 1500, 24, 10
    small = Small(
        folder=tmp_path,
        dim=dim,
        options=options(thresholds=Thresholds(first_rows=500, delta_rows=500)),
    )
    vectors = clustered(rows, dim, seed=1)
    small.upsert([f"r{number}" for number in range(rows)], vectors)
    small.index.maintain()
    assert small.index.stats.segments == 1
    query = clustered(1, dim, seed=2)[0]
    scores = small.true_scores(query)
    count = int(part * rows)
    allowed = (
        np.sort(np.array(sorted(scores, key=lambda seq: scores[seq])[:count]))
        if correlated
        else np.sort(np.random.default_rng(0).choice(small.seqs(), count, replace=False))
    )
    [found] = small.index.search(query[np.newaxis], k, allowed=allowed)
    best = sorted((scores[seq] for seq in allowed.tolist()), reverse=True)[:k]
    assert len(found.seqs) == min(k, count)
    np.testing.assert_allclose(found.scores, best, atol=2e-2)
    small.close()


def test_a_batch_gets_the_answers_of_its_queries(small: Small) -> None:
    small.upsert([f"r{number}" for number in range(300)], clustered(300, 32, seed=1))
    small.index.maintain()
    queries = clustered(40, 32, seed=2)
    for query, found in zip(queries, small.index.search(queries, 7), strict=True):
        [alone] = small.index.search(query[np.newaxis], 7)
        assert np.array_equal(alone.seqs, found.seqs)
        assert np.array_equal(alone.scores, found.scores)


def test_an_index_of_which_all_rows_died_is_empty(small: Small) -> None:
    ids = [f"r{number}" for number in range(40)]
    small.upsert(ids, clustered(40, 32, seed=1))
    small.index.maintain()
    small.delete(ids)
    assert small.index.search(clustered(1, 32, seed=2), 5)[0].seqs.tolist() == []
    small.index.compact()
    assert small.index.stats.segments == 0
    small.restart()
    assert len(small.index) == 0


def test_reads_see_whole_transactions_while_segments_are_published(tmp_path: Path) -> None:
    """Each transaction replaces some rows by their likes: a search finds every id, once."""
    small = Small(folder=tmp_path, dim=8, options=options(thresholds=SMALL))
    vectors = clustered(24, 8, seed=1)
    ids = [f"r{number}" for number in range(24)]
    small.upsert(ids, vectors)
    stop, failures = threading.Event(), list[str]()

    def read() -> None:
        while not stop.is_set():
            [found] = small.index.search(vectors[:1], 100)
            if len(found.seqs) != len(ids):
                failures.append(f"{len(found.seqs)} rows")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(24):
        small.upsert(ids[turn % 20 : turn % 20 + 4], vectors[turn % 20 : turn % 20 + 4])
        if turn % 3 == 0:
            small.index.maintain()
        if turn % 8 == 0:
            small.index.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert small.index.stats.builds > 5
    small.close()

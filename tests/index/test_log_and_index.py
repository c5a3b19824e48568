"""The log and the index together against a dictionary, through restarts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow
from vecserve_server.domain.vectors import Vectors
from vecserve_server.index.vectors.exact_index import ExactIndex
from vecserve_server.storage.rows.operations import Committed, Delete, Operation, Upsert
from vecserve_server.storage.rows.row_log import RowLog

_DIM, _CHUNK_ROWS = 6, 4
_IDS = st.sampled_from(["a", "A", "ä", "a\u0308", "\0", "a\0b", "💡", " ", "'; --", *"bcdefghij"])
# Small whole numbers: many vectors are equal or parallel, so ties are tested too.
_VECTORS = st.lists(st.integers(-2, 2), min_size=_DIM, max_size=_DIM).filter(any)


@st.composite
def _upserts(draw: st.DrawFn) -> Upsert:
    vector = np.array(draw(_VECTORS), np.float32)
    number = draw(st.integers(0, 9))
    return Upsert(
        NewRow(
            id=draw(_IDS),
            vector=(vector / np.linalg.norm(vector)).astype(np.float32),
            payload_json=f'{{"n": {number}}}',
        )
    )


class LogAndIndex(RuleBasedStateMachine):
    """Whatever is written, the log and the index agree with a dictionary from id to row."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.expected: dict[str, tuple[int, NewRow]] = {}
        self.spent_seq = 0
        self.open()

    def teardown(self) -> None:
        self.log.close()
        self.folder.cleanup()

    @rule(operations=st.lists(st.one_of(_upserts(), st.builds(Delete, _IDS)), max_size=12))
    def commit(self, operations: Sequence[Operation]) -> None:
        committed = self.log.commit(operations)
        _publish(self.index, committed)
        for operation, seq in zip(operations, committed.seqs, strict=True):
            replaced = self.expected.pop(operation.id, None)
            if isinstance(operation, Upsert):
                assert isinstance(seq, int)
                assert seq > self.spent_seq
                self.spent_seq = seq
                self.expected[operation.id] = seq, operation.row
            else:
                assert seq == (replaced[0] if replaced else None)

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.open()

    @rule(ids=st.lists(_IDS))
    def get(self, ids: list[str]) -> None:
        found = self.log.get(ids, with_vectors=True)
        assert found.keys() == self.expected.keys() & set(ids)
        for id_, row in found.items():
            seq, written = self.expected[id_]
            assert (row.seq, row.id, row.payload_json) == (seq, id_, written.payload_json)
            assert row.vector is not None
            assert np.array_equal(row.vector, written.vector.astype(np.float16))

    @rule(after_seq=st.integers(0, 60), limit=st.integers(1, 8))
    def scan(self, after_seq: int, limit: int) -> None:
        seqs = sorted(seq for seq, _ in self.expected.values() if seq > after_seq)
        found = self.log.scan(after_seq=after_seq, limit=limit)
        assert [row.seq for row in found] == seqs[:limit]
        assert self.log.by_seq([row.seq for row in found]) == {row.seq: row for row in found}

    @rule(queries=st.lists(_VECTORS, min_size=1, max_size=3), k=st.integers(1, 25))
    def search(self, queries: list[list[int]], k: int) -> None:
        answers = self.index.search(np.array(queries, np.float32), k)
        for query, answer in zip(queries, answers, strict=True):
            scores = self.true_scores(np.array(query))
            assert len(answer.seqs) == min(k, len(scores))
            np.testing.assert_allclose(
                answer.scores, sorted(scores.values(), reverse=True)[:k], atol=1e-6
            )
            for seq, score in zip(answer.seqs.tolist(), answer.scores.tolist(), strict=True):
                assert abs(scores[seq] - score) < 1e-6
            order = list(zip((-answer.scores).tolist(), answer.seqs.tolist(), strict=True))
            assert order == sorted(order)

    @invariant()
    def sizes_agree(self) -> None:
        assert len(self.index) == self.log.count() == len(self.expected)
        assert self.log.last_seq() == self.spent_seq

    def open(self) -> None:
        path = Path(self.folder.name) / "rows.sqlite"
        self.log = RowLog.open(path, dim=_DIM, model_digest="0f", readers=1)
        self.index = ExactIndex(dim=_DIM, chunk_rows=_CHUNK_ROWS)
        _rebuild(self.index, self.log)

    def true_scores(self, query: NDArray[np.int64]) -> dict[int, float]:
        return {seq: _cosine(query, row.vector) for seq, row in self.expected.values()}


LogAndIndex.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLogAndIndex = LogAndIndex.TestCase


def _publish(index: ExactIndex, committed: Committed) -> None:
    index.apply(
        added_seqs=committed.added_seqs,
        added_vectors=committed.added_vectors,
        removed_seqs=committed.removed_seqs,
    )


def _rebuild(index: ExactIndex, log: RowLog) -> None:
    after_seq = 0
    while rows := log.scan(after_seq=after_seq, limit=5, with_vectors=True):
        after_seq = rows[-1].seq
        index.apply(
            added_seqs=np.array([row.seq for row in rows]),
            added_vectors=np.stack([row.vector for row in rows if row.vector is not None]),
            removed_seqs=np.empty(0, np.int64),
        )


def _cosine(query: NDArray[np.int64], vector: Vectors) -> float:
    stored = vector.astype(np.float16).astype(np.float64)
    return float(stored @ query / np.linalg.norm(stored) / np.linalg.norm(query))

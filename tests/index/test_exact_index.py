"""The exact index against brute force, under churn and under concurrent readers."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import InvalidArgument
from vecserve_server.index.vectors.exact_index import ExactIndex

_NOTHING = np.empty(0, np.int64)


@pytest.mark.parametrize("chunk_rows", [7, 256, 4096])
def test_the_ten_nearest_are_those_of_a_float_scan(chunk_rows: int) -> None:
    vectors, queries = _unit_vectors(3000, 64), _unit_vectors(50, 64, seed=1)
    index = ExactIndex(dim=64, chunk_rows=chunk_rows)
    _add(index, 0, vectors)
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = index.search(queries, 10)
    shared = [len(np.intersect1d(a.seqs, b)) for a, b in zip(found, nearest, strict=True)]
    assert np.mean(shared) / 10 >= 0.995


def test_an_answer_depends_on_neither_the_batch_nor_the_chunks() -> None:
    vectors, queries = _unit_vectors(500, 24), _unit_vectors(40, 24, seed=1)
    whole, pieces = ExactIndex(dim=24), ExactIndex(dim=24, chunk_rows=16)
    _add(whole, 0, vectors)
    for start in range(0, 500, 9):
        _add(pieces, start, vectors[start : start + 9])
    together = whole.search(queries, 5)
    for index in (whole, pieces):
        for row, expected in enumerate(together):
            (found,) = index.search(queries[row : row + 1], 5)
            assert found.seqs.tolist() == expected.seqs.tolist()
            assert found.scores.tolist() == expected.scores.tolist()


def test_scores_are_true_cosines_of_the_stored_vectors() -> None:
    vectors, query = _unit_vectors(100, 32), _unit_vectors(1, 32, seed=1)
    index = ExactIndex(dim=32)
    _add(index, 0, vectors)
    (found,) = index.search(query * 5, 100)
    stored = vectors.astype(np.float16).astype(np.float64)[found.seqs]
    expected = stored @ query[0] / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert len(found.seqs) == len(index) == 100


def test_an_empty_index_answers_with_nothing() -> None:
    index = ExactIndex(dim=4)
    assert [len(answer.seqs) for answer in index.search(_unit_vectors(3, 4), 5)] == [0, 0, 0]
    assert index.search(np.empty((0, 4), np.float32), 5) == []
    assert len(index) == 0


def test_equal_vectors_come_in_the_order_of_their_seqs() -> None:
    index = ExactIndex(dim=4, chunk_rows=8)
    _add(index, 0, np.tile(_unit_vectors(1, 4), (100, 1)))
    index.apply(
        added_seqs=_NOTHING, added_vectors=np.empty((0, 4), np.float16), removed_seqs=np.array([2])
    )
    (found,) = index.search(_unit_vectors(1, 4, seed=1), 4)
    assert found.seqs.tolist() == [0, 1, 3, 4]


def test_removed_rows_are_never_found_and_unknown_ones_are_ignored() -> None:
    index = ExactIndex(dim=8, chunk_rows=16)
    _add(index, 0, _unit_vectors(100, 8))
    removed = np.random.default_rng(2).permutation(150)[:120]
    for some in np.array_split(removed, 7):
        _remove(index, some)
        _remove(index, some)
    alive = np.setdiff1d(np.arange(100), removed)
    assert len(index) == len(alive)
    (found,) = index.search(_unit_vectors(1, 8, seed=1), 200)
    assert sorted(found.seqs.tolist()) == alive.tolist()


def test_churn_does_not_grow_the_index() -> None:
    index, rng = ExactIndex(dim=8, chunk_rows=32), np.random.default_rng(0)
    _add(index, 0, _unit_vectors(200, 8))
    alive = list(range(200))
    for seq in range(200, 5000):
        place = int(rng.integers(200))
        index.apply(
            added_seqs=np.array([seq]),
            added_vectors=_unit_vectors(1, 8, seed=seq).astype(np.float16),
            removed_seqs=np.array([alive[place]]),
        )
        alive[place] = seq
        chunks = index._snapshot.chunks
        assert sum(chunk.rows for chunk in chunks) <= 2 * 200 + 2 * 32
    (found,) = index.search(_unit_vectors(1, 8, seed=1), 500)
    assert sorted(found.seqs.tolist()) == sorted(alive)


def test_removing_every_row_frees_their_chunks() -> None:
    index = ExactIndex(dim=8, chunk_rows=16)
    empty_bytes = index.memory_bytes
    _add(index, 0, _unit_vectors(48, 8))
    for seqs in np.array_split(np.arange(48), 3):
        _remove(index, seqs)
    assert index.memory_bytes == empty_bytes


def test_a_reader_sees_whole_transactions_while_the_writer_works() -> None:
    """Every transaction replaces all 40 rows by 40 new ones of the next generation."""
    index, failures, stop = ExactIndex(dim=8, chunk_rows=16), list[str](), threading.Event()
    vectors, query = _unit_vectors(40, 8), _unit_vectors(1, 8, seed=1)
    _add(index, 0, vectors)

    def read() -> None:
        while not stop.is_set():
            (found,) = index.search(query, 40)
            if len(found.seqs) != 40 or len(set((found.seqs // 40).tolist())) != 1:
                failures.append(f"saw {sorted(found.seqs.tolist())}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for generation in range(1, 300):
        seqs = np.arange(40) + 40 * generation
        index.apply(
            added_seqs=seqs, added_vectors=vectors.astype(np.float16), removed_seqs=seqs - 40
        )
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []


def test_many_queries_over_many_rows_are_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = _unit_vectors(300, 8), _unit_vectors(20, 8, seed=1)
    index = ExactIndex(dim=8)
    _add(index, 0, vectors)
    expected = [answer.seqs.tolist() for answer in index.search(queries, 3)]
    monkeypatch.setattr("vecserve_server.index.vectors.exact_index._SCORES_BYTES", 300 * 4 * 3)
    assert [answer.seqs.tolist() for answer in index.search(queries, 3)] == expected


def test_memory_is_codes_originals_and_little_else() -> None:
    index = ExactIndex(dim=384, chunk_rows=256)
    _add(index, 0, _unit_vectors(4096, 384))
    assert 3 * 384 <= index.memory_bytes / 4096 <= 3 * 384 * 1.1


def test_malformed_calls_name_the_argument() -> None:
    index = ExactIndex(dim=4)
    _add(index, 5, _unit_vectors(2, 4))
    for seqs in ([6], [9, 8], [9, 9]):
        with pytest.raises(InvalidArgument, match="added_seqs"):
            _apply(index, np.array(seqs), _unit_vectors(len(seqs), 4))
    with pytest.raises(InvalidArgument, match="added_vectors"):
        _apply(index, np.array([9]), _unit_vectors(1, 5))
    with pytest.raises(InvalidArgument, match="queries"):
        index.search(_unit_vectors(1, 5), 1)
    with pytest.raises(InvalidArgument, match="k"):
        index.search(_unit_vectors(1, 4), 0)
    assert len(index) == 2


def _unit_vectors(count: int, dim: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng([seed, count, dim]).standard_normal((count, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _add(index: ExactIndex, first_seq: int, vectors: Vectors) -> None:
    _apply(index, np.arange(first_seq, first_seq + len(vectors)), vectors)


def _apply(index: ExactIndex, seqs: NDArray[np.int64], vectors: Vectors) -> None:
    index.apply(added_seqs=seqs, added_vectors=vectors.astype(np.float16), removed_seqs=_NOTHING)


def _remove(index: ExactIndex, seqs: NDArray[np.int64]) -> None:
    dim = index._dim
    index.apply(
        added_seqs=_NOTHING, added_vectors=np.empty((0, dim), np.float16), removed_seqs=seqs
    )

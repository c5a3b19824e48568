"""Exact search: scan every int8 code, then rank the best by their float16 originals.

Owns the snapshot that readers see and its compaction. Must not know rows, files or graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Codes, Vectors
from vecserve_server.errors import InvalidArgument
from vecserve_server.index.vectors.chunk import NO_POSITIONS, Chunk, OpenChunk, merge
from vecserve_server.index.vectors.quantiser import MaxAbsQuantiser
from vecserve_server.index.vectors.ranking import Candidates, are_among, best_positions, rank
from vecserve_server.index.vectors.vector_index import Neighbours

_CHUNK_ROWS = 2048
_LEAST_CANDIDATES = 20
_SCORES_BYTES = 32 << 20


class ExactIndex:
    """Vectors by seq, all of which every search looks at; readers take no lock.

    Any two neighbouring sealed chunks hold more than `chunk_rows` live rows together, so at most
    twice the live rows and two chunks are kept, whatever is written and removed.
    """

    def __init__(
        self,
        *,
        dim: int,
        chunk_rows: int = _CHUNK_ROWS,
        last_seq: int = -1,
    ) -> None:
        self._dim = dim
        self._chunk_rows = chunk_rows
        self._last_seq = last_seq
        self._open = self._new_chunk()
        # Replaced as a whole and never changed: one read of the attribute is a consistent view.
        self._snapshot = self._snapshot_of((), None)

    def apply(
        self,
        *,
        added_seqs: NDArray[np.int64],
        added_vectors: NDArray[np.float16],
        removed_seqs: NDArray[np.int64],
    ) -> None:
        """Make one transaction visible; see `VectorIndex.apply`."""
        self._check_added(added_seqs, added_vectors)
        before = self._snapshot
        chunks = _without(before.chunks, removed_seqs)
        newest = chunks.pop() if before.newest else None
        newest = self._append(added_seqs, added_vectors, chunks, newest)
        self._snapshot = self._snapshot_of(self._merged(chunks), newest)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: NDArray[np.int64] | None = None,
    ) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query; see `VectorIndex.search`."""
        check_search(queries, k, self._dim)
        found = self._snapshot.candidates(queries, candidates_for(k), allowed)
        return [
            rank(query, *candidates, k) for query, candidates in zip(queries, found, strict=True)
        ]

    @property
    def snapshot(self) -> ExactSnapshot:
        """The rows as they are now; later transactions do not change it."""
        return self._snapshot

    def __len__(self) -> int:
        return self._snapshot.live

    @property
    def memory_bytes(self) -> int:
        """Memory held by vectors, codes and seqs, in bytes."""
        chunks = self._snapshot.chunks
        return sum(chunk.memory_bytes for chunk in chunks) + self._open.spare_bytes

    def _check_added(self, seqs: NDArray[np.int64], vectors: NDArray[np.float16]) -> None:
        if vectors.shape != (len(seqs), self._dim):
            raise InvalidArgument(
                "added_vectors", f"has shape {vectors.shape}, not ({len(seqs)}, {self._dim})"
            )
        if len(seqs) and (seqs[0] <= self._last_seq or (np.diff(seqs) <= 0).any()):
            raise InvalidArgument("added_seqs", f"do not ascend from above {self._last_seq}")

    def _append(
        self,
        seqs: NDArray[np.int64],
        vectors: NDArray[np.float16],
        sealed: list[Chunk],
        newest: Chunk | None,
    ) -> Chunk | None:
        """Add the rows to the open chunk, move it to `sealed` when full; return the newest."""
        start = 0
        while start < len(seqs):
            stop = start + self._open.room_rows
            self._open.append(seqs[start:stop], vectors[start:stop])
            newest = self._open.freeze(newest.dead if newest else NO_POSITIONS)
            if not self._open.room_rows:
                sealed.append(newest)
                newest, self._open = None, self._new_chunk()
            start = stop
        if len(seqs):
            self._last_seq = int(seqs[-1])
        return newest

    def _merged(self, chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
        kept: list[Chunk] = []
        for chunk in chunks:
            if not chunk.live:
                continue
            if kept and kept[-1].live + chunk.live <= self._chunk_rows:
                kept[-1] = merge(kept[-1], chunk)
            else:
                kept.append(chunk)
        return tuple(kept)

    def _snapshot_of(self, sealed: tuple[Chunk, ...], newest: Chunk | None) -> ExactSnapshot:
        chunks = (*sealed, newest) if newest else sealed
        return ExactSnapshot(
            chunks=chunks,
            newest=newest,
            starts=np.cumsum([0, *(chunk.rows for chunk in chunks)]),
            live=sum(chunk.live for chunk in chunks),
            dim=self._dim,
        )

    def _new_chunk(self) -> OpenChunk:
        return OpenChunk(capacity_rows=self._chunk_rows, dim=self._dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactSnapshot:
    """The rows of an exact index at one moment."""

    chunks: tuple[Chunk, ...]
    """Ascending by seq, none empty."""
    newest: Chunk | None
    """The last of `chunks`, if it is still open."""
    starts: NDArray[np.int64]
    """Where each chunk's rows start, and where the last one's end, int64 [C + 1]."""
    live: int
    dim: int

    @property
    def rows(self) -> int:
        """Rows held, dead ones included."""
        return int(self.starts[-1])

    def candidates(
        self, queries: Vectors, count: int, allowed: NDArray[np.int64] | None = None
    ) -> list[Candidates]:
        """Return about the `count` best rows of each query, float32 [Q, D]."""
        mask = None
        if allowed is not None:
            mask = self._mask(allowed)
            if np.count_nonzero(mask) <= count:
                return [self._rows_at(np.flatnonzero(mask))] * len(queries)
        found = []
        for some in _blocks(queries, self.rows):
            scores = self._score(MaxAbsQuantiser().encode(some))
            if mask is not None:
                np.copyto(scores, -np.inf, where=~mask)
            found += [self._rows_at(best_positions(of_query, count)) for of_query in scores]
        return found

    def living(self) -> Iterator[Candidates]:
        """Yield the living rows, a chunk at a time, ascending by seq."""
        for chunk in self.chunks:
            rows = np.delete(np.arange(chunk.rows), chunk.dead)
            yield Candidates(chunk.seqs[rows], chunk.originals[rows])

    def _mask(self, allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell of each row whether its seq is among the ascending ones of `allowed`."""
        mask = np.zeros(self.rows, np.bool_)
        for chunk, start in zip(self.chunks, self.starts, strict=False):
            mask[start : start + chunk.rows] = are_among(chunk.seqs, allowed)
            mask[start + chunk.dead] = False
        return mask

    def _score(self, codes: Codes) -> Vectors:
        scores = np.empty((len(codes), self.rows), np.float32)
        for chunk, start in zip(self.chunks, self.starts, strict=False):
            chunk.score(codes, scores[:, start : start + chunk.rows])
        return scores

    def _rows_at(self, positions: NDArray[np.int64]) -> Candidates:
        seqs = np.empty(len(positions), np.int64)
        vectors = np.empty((len(positions), self.dim), np.float16)
        owners = np.searchsorted(self.starts, positions, side="right") - 1
        rows = positions - self.starts[owners]
        for place, (owner, row) in enumerate(zip(owners.tolist(), rows.tolist(), strict=True)):
            seqs[place] = self.chunks[owner].seqs[row]
            vectors[place] = self.chunks[owner].originals[row]
        return Candidates(seqs, vectors)


def check_search(queries: Vectors, k: int, dim: int) -> None:
    """Raise InvalidArgument unless a search of `queries` for `k` hits makes sense."""
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InvalidArgument("queries", f"has shape {queries.shape}, not (N, {dim})")
    if k < 1:
        raise InvalidArgument("k", f"is {k}, the least is 1")


def candidates_for(k: int) -> int:
    """Tell how many rows to re-rank so that codes cost no recall."""
    return max(_LEAST_CANDIDATES, 2 * k)


def _without(chunks: Sequence[Chunk], removed_seqs: NDArray[np.int64]) -> list[Chunk]:
    kept = list(chunks)
    if not kept or not len(removed_seqs):
        return kept
    first_seqs = np.array([chunk.seqs[0] for chunk in kept])
    owners = np.searchsorted(first_seqs, removed_seqs, side="right") - 1
    for owner in np.unique(owners[owners >= 0]).tolist():
        kept[owner] = kept[owner].without(removed_seqs[owners == owner])
    return kept


def _blocks(queries: Vectors, rows: int) -> Iterator[Vectors]:
    """Cut the queries so that the scores of one block stay small."""
    size = max(1, _SCORES_BYTES // (4 * max(rows, 1)))
    for start in range(0, len(queries), size):
        yield queries[start : start + size]

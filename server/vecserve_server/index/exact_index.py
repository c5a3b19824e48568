"""Exact search: scan every int8 code, then rank the best by their float16 originals.

Owns the snapshot that readers see and its compaction. Must not know rows, files or graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import Codes, Vectors
from vecserve_server.errors import InvalidArgument
from vecserve_server.index.chunk import NO_POSITIONS, Chunk, OpenChunk, merge
from vecserve_server.index.quantiser import MaxAbsQuantiser
from vecserve_server.index.ranking import best_positions, rank
from vecserve_server.index.vector_index import Neighbours, Verified

_CHUNK_ROWS = 2048
_LEAST_CANDIDATES = 20
_SCORES_BYTES = 32 << 20


class ExactIndex:
    """A `VectorIndex` that looks at every vector; readers take no lock.

    Any two neighbouring sealed chunks hold more than `chunk_rows` live rows together, so at most
    twice the live rows and two chunks are kept, whatever is written and removed.
    """

    def __init__(
        self,
        *,
        dim: int,
        quantiser: MaxAbsQuantiser | None = None,
        chunk_rows: int = _CHUNK_ROWS,
    ) -> None:
        self._dim = dim
        self._quantiser = quantiser or MaxAbsQuantiser()
        self._chunk_rows = chunk_rows
        self._last_seq = -1
        self._open = self._new_chunk()
        # Replaced as a whole and never changed: one read of the attribute is a consistent view.
        self._snapshot = _snapshot((), None, dim)

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
        self._snapshot = _snapshot(self._merged(chunks), newest, self._dim)

    def search(self, queries: Vectors, k: int) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query; see `VectorIndex.search`."""
        if queries.ndim != 2 or queries.shape[1] != self._dim:
            raise InvalidArgument("queries", f"has shape {queries.shape}, not (N, {self._dim})")
        if k < 1:
            raise InvalidArgument("k", f"is {k}, the least is 1")
        snapshot = self._snapshot
        answers: list[Neighbours] = []
        for some in _blocks(queries, snapshot.rows):
            scores = snapshot.score(self._quantiser.encode(some))
            for query, of_query in zip(some, scores, strict=True):
                candidates = best_positions(of_query, max(_LEAST_CANDIDATES, 2 * k))
                answers.append(rank(query, *snapshot.rows_at(candidates), k))
        return answers

    def verify(self) -> Verified:
        """Every row is looked at by every search: there is nothing to check."""
        return Verified(rows=len(self), missing_seqs=(), damaged_files=())

    def compact(self) -> None:
        """Nothing of this index is on disk."""

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
                kept[-1] = merge(kept[-1], chunk, self._quantiser)
            else:
                kept.append(chunk)
        return tuple(kept)

    def _new_chunk(self) -> OpenChunk:
        return OpenChunk(capacity_rows=self._chunk_rows, dim=self._dim, quantiser=self._quantiser)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Snapshot:
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
        return int(self.starts[-1])

    def score(self, codes: Codes) -> Vectors:
        scores = np.empty((len(codes), self.rows), np.float32)
        for chunk, start in zip(self.chunks, self.starts, strict=False):
            chunk.score(codes, scores[:, start : start + chunk.rows])
        return scores

    def rows_at(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Return seqs int64 [N] and vectors float16 [N, D] of rows anywhere in the chunks."""
        seqs = np.empty(len(positions), np.int64)
        vectors = np.empty((len(positions), self.dim), np.float16)
        owners = np.searchsorted(self.starts, positions, side="right") - 1
        rows = positions - self.starts[owners]
        for place, (owner, row) in enumerate(zip(owners.tolist(), rows.tolist(), strict=True)):
            seqs[place] = self.chunks[owner].seqs[row]
            vectors[place] = self.chunks[owner].originals[row]
        return seqs, vectors


def _snapshot(sealed: tuple[Chunk, ...], newest: Chunk | None, dim: int) -> _Snapshot:
    chunks = (*sealed, newest) if newest else sealed
    return _Snapshot(
        chunks=chunks,
        newest=newest,
        starts=np.cumsum([0, *(chunk.rows for chunk in chunks)]),
        live=sum(chunk.live for chunk in chunks),
        dim=dim,
    )


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

"""A block of vectors in the form that a scan wants: packed int8 codes beside float16 originals.

Owns the memory layout and the kernels. Chunks are immutable, so that readers need no lock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Codes, Vectors
from vecserve_server.index.vectors.quantiser import MaxAbsQuantiser

NO_POSITIONS = np.empty(0, np.int64)
NO_POSITIONS.flags.writeable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows in ascending order of seq, some of them dead."""

    seqs: NDArray[np.int64]
    originals: NDArray[np.float16]
    packed: Any
    """The codes as NumKong's dot product wants them, int8 [N, D]."""
    inverse_norms: NDArray[np.float32]
    """1 / norm of each row's codes, float32 [N]."""
    dead: NDArray[np.int64]
    """Positions that no search may return, int64, ascending."""

    @property
    def rows(self) -> int:
        """Rows held, dead ones included."""
        return len(self.seqs)

    @property
    def live(self) -> int:
        """Rows that a search can find."""
        return len(self.seqs) - len(self.dead)

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        arrays = (self.seqs, self.originals, self.inverse_norms, self.dead)
        return int(self.packed.nbytes) + sum(array.nbytes for array in arrays)

    def score(self, codes: Codes, out: Vectors) -> None:
        """Write the int8 cosines of the queries, up to each query's own factor, into `out`.

        `codes` int8 [Q, D]; `out` float32 [Q, rows]; dead rows score minus infinity.
        """
        dots = np.asarray(numkong.dots_packed(codes, self.packed))
        np.multiply(dots, self.inverse_norms, out=out, dtype=np.float32, casting="unsafe")
        if len(self.dead):
            out[:, self.dead] = -np.inf

    def without(self, seqs: NDArray[np.int64]) -> Chunk:
        """Return this chunk with the rows of `seqs` dead as well; unknown seqs are ignored."""
        positions = np.minimum(np.searchsorted(self.seqs, seqs), self.rows - 1)
        found = positions[self.seqs[positions] == seqs]
        return replace(self, dead=np.union1d(self.dead, found)) if len(found) else self


class OpenChunk:
    """Room for the newest rows. Only the writer thread uses it; readers get `freeze`'s chunks."""

    def __init__(self, *, capacity_rows: int, dim: int) -> None:
        self._seqs = np.empty(capacity_rows, np.int64)
        self._originals = np.empty((capacity_rows, dim), np.float16)
        self._codes = np.empty((capacity_rows, dim), np.int8)
        self._inverse_norms = np.empty(capacity_rows, np.float32)
        self._rows = 0

    @property
    def room_rows(self) -> int:
        """Rows that still fit."""
        return len(self._seqs) - self._rows

    @property
    def spare_bytes(self) -> int:
        """Memory held beyond what the frozen chunk counts, in bytes."""
        shared = (self._seqs, self._originals, self._inverse_norms)
        return self._codes.nbytes + sum(array[self._rows :].nbytes for array in shared)

    def append(self, seqs: NDArray[np.int64], originals: NDArray[np.float16]) -> None:
        """Add rows: int64 [N], float16 [N, D], N at most `room_rows`."""
        added = slice(self._rows, self._rows + len(seqs))
        codes = MaxAbsQuantiser().encode(originals.astype(np.float32))
        self._seqs[added], self._originals[added], self._codes[added] = seqs, originals, codes
        self._inverse_norms[added] = _inverse_norms(codes)
        self._rows = added.stop

    def freeze(self, dead: NDArray[np.int64] = NO_POSITIONS) -> Chunk:
        """Return the rows so far; what is appended later lies outside the chunk's views.

        Packing all rows anew costs less than one scan of unpacked rows for a batch of queries.
        """
        rows = self._rows
        return Chunk(
            seqs=self._seqs[:rows],
            originals=self._originals[:rows],
            packed=numkong.dots_pack(self._codes[:rows]),
            inverse_norms=self._inverse_norms[:rows],
            dead=dead,
        )


def merge(first: Chunk, second: Chunk) -> Chunk:
    """Return the live rows of two neighbours as one chunk."""
    alive = [np.delete(np.arange(chunk.rows), chunk.dead) for chunk in (first, second)]
    merged = OpenChunk(capacity_rows=first.live + second.live, dim=first.originals.shape[1])
    for chunk, rows in zip((first, second), alive, strict=True):
        merged.append(chunk.seqs[rows], chunk.originals[rows])
    return merged.freeze()


def _inverse_norms(codes: Codes) -> NDArray[np.float32]:
    squares = np.einsum("nd,nd->n", codes, codes, dtype=np.float32)
    # An all-zero code has a zero dot product with everything: any finite factor will do.
    inverse: NDArray[np.float32] = np.reciprocal(np.sqrt(np.maximum(squares, np.float32(1))))
    return inverse

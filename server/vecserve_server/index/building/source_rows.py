"""The rows that a build seals, from several files into one.

Owns their order: ascending by seq, but for a random few that come last. Must not know graphs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import CorruptData
from vecserve_server.index.building.build_job import RowFiles
from vecserve_server.index.segments.segment import Rows
from vecserve_server.index.segments.segment_files import SEQS, VECTORS

_BLOCK_ROWS = 4096
_LEAST_PER_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRows:
    """Rows of all sources, in the order in which they will be sealed."""

    seqs: NDArray[np.int64]
    vectors: tuple[NDArray[np.float16], ...]
    owners: NDArray[np.int64]
    """Which of `vectors` each row is in."""
    places: Rows
    """Where in it."""
    held_out: int
    """How many rows at the end were chosen at random."""

    @classmethod
    def open(cls, sources: Sequence[RowFiles], *, dim: int, held_out: int, seed: int) -> SourceRows:
        """Read the seqs and choose the order. Raises CorruptData if files do not fit together."""
        vectors, seqs, owners, places = [], [], [], []
        for number, source in enumerate(sources):
            of_source, kept_seqs, kept = _read(source, dim)
            vectors.append(of_source)
            seqs.append(kept_seqs)
            places.append(kept)
            owners.append(np.full(len(kept), number))
        all_seqs = np.concatenate(seqs)
        held_out = min(held_out, len(all_seqs) // _LEAST_PER_HELD_OUT)
        order = _order(all_seqs, held_out, seed)
        return cls(
            seqs=all_seqs[order],
            vectors=tuple(vectors),
            owners=np.concatenate(owners)[order],
            places=np.concatenate(places)[order],
            held_out=held_out,
        )

    @property
    def runs(self) -> tuple[int, ...]:
        """Lengths of the stretches with ascending seqs."""
        return (len(self.seqs) - self.held_out, self.held_out)

    def some(self, count: int) -> Vectors:
        """Read up to `count` vectors, spread evenly, float32 [N, D]."""
        step = max(len(self.seqs) // max(count, 1), 1)
        return self._gather(slice(None, None, step)).astype(np.float32)

    def write(self, folder: Path, base: Path | None) -> None:
        """Write the seqs and vectors of the new segment, after those of its base.

        Raises OSError, which NumPy's own `tofile` keeps to itself when a disk is full.
        """
        for name in (SEQS, VECTORS):
            if base:
                shutil.copyfile(base / name, folder / name)
        with (folder / SEQS).open("ab") as file:
            file.write(self.seqs.astype("<i8").tobytes())
        with (folder / VECTORS).open("ab") as file:
            for start in range(0, len(self.seqs), _BLOCK_ROWS):
                file.write(self._gather(slice(start, start + _BLOCK_ROWS)).tobytes())

    def _gather(self, rows: slice) -> NDArray[np.float16]:
        owners, places = self.owners[rows], self.places[rows]
        gathered = np.empty((len(owners), self.vectors[0].shape[1]), "<f2")
        for owner in np.unique(owners).tolist():
            mine = owners == owner
            gathered[mine] = self.vectors[owner][places[mine]]
        return gathered


def _read(source: RowFiles, dim: int) -> tuple[NDArray[np.float16], NDArray[np.int64], Rows]:
    seqs = np.frombuffer(Path(source.seqs).read_bytes(), "<i8")
    vectors = np.memmap(source.vectors, "<f2", "r") if len(seqs) else np.empty(0, "<f2")
    if len(vectors) != len(seqs) * dim:
        raise CorruptData(f"{source.vectors}: does not hold {len(seqs)} vectors")
    kept = np.ones(len(seqs), np.bool_)
    if source.left_out:
        kept[np.frombuffer(Path(source.left_out).read_bytes(), "<i8")] = False
    return vectors.reshape(-1, dim), seqs[kept], np.flatnonzero(kept)


def _order(seqs: NDArray[np.int64], held_out: int, seed: int) -> Rows:
    ascending = np.argsort(seqs, kind="stable")
    chosen = np.zeros(len(seqs), np.bool_)
    chosen[np.random.default_rng(seed).choice(len(seqs), held_out, replace=False)] = True
    return np.concatenate([ascending[~chosen], ascending[chosen]])

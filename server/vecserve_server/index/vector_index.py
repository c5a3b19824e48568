"""The seam between a collection and whatever searches its vectors.

Owns the index interface. Must not know rows, files or how a search is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain import Vectors


class Neighbours(NamedTuple):
    """The answer to one query, best first; equal scores are in the order of their seqs."""

    seqs: NDArray[np.int64]
    """int64 [<= k]"""
    scores: NDArray[np.float32]
    """True cosines with the stored float16 vectors, float32 [<= k], in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `verify` found."""

    rows: int
    """Live rows, each of which was searched for."""
    missing_seqs: tuple[int, ...]
    """Rows that do not find themselves."""
    damaged_files: tuple[str, ...]
    """Files whose content is not what was written."""


class VectorIndex(Protocol):
    """Vectors by seq, searched by cosine. One thread applies, any thread searches."""

    def apply(
        self,
        *,
        added_seqs: NDArray[np.int64],
        added_vectors: NDArray[np.float16],
        removed_seqs: NDArray[np.int64],
    ) -> None:
        """Make one transaction visible: a search sees all of it or none.

        `added_seqs` int64 [N], ascending and above every seq applied before; `added_vectors`
        float16 [N, D], finite; `removed_seqs` int64 [M] in any order, unknown ones are ignored.
        Raises InvalidArgument if the shapes or the order are wrong.
        """
        ...

    def search(self, queries: Vectors, k: int) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query: finite float32 [Q, D], one answer each.

        An answer does not depend on the other queries. Raises InvalidArgument.
        """
        ...

    def verify(self) -> Verified:
        """Check every file and search for every row; takes its time."""
        ...

    def compact(self) -> None:
        """Rewrite what is kept of removed rows, so that nothing of them is left; takes its time.

        Raises StorageError.
        """
        ...

    def __len__(self) -> int:
        """Count the vectors that a search can find."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        ...

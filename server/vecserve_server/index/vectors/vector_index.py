"""The seam between a collection and whatever searches its vectors.

Owns the index interface. Must not know rows, files or how a search is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors

Method = Literal["scan", "scan_allowed", "graph", "graph_allowed"]
"""How sealed rows are searched: all of them exactly; the allowed ones exactly; by their graphs; by
their graphs, deeper, keeping what is allowed. Rows that are not sealed yet are always scanned."""


KEPT_REMOVALS = 64
"""Transactions that an index remembers the removals of."""


class Neighbours(NamedTuple):
    """The answer to one query, best first; equal scores are in the order of their seqs."""

    seqs: NDArray[np.int64]
    """int64 [<= k]"""
    scores: NDArray[np.float32]
    """True cosines with the stored float16 vectors, float32 [<= k], in [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What a search would do now."""

    method: Method
    expansion: int
    """Breadth of the search in the largest graph; 0 where no graph is searched."""
    sealed_rows: int
    """Live rows in sealed segments."""
    delta_rows: int
    """Live rows that are scanned beside them."""
    allowed_rows: int | None
    """Rows that the filter lets through, None without a filter."""


class Removal(NamedTuple):
    """What one version of the index has no more."""

    version: int
    seqs: NDArray[np.int64]
    """int64 [N]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far an index has come."""

    version: int
    last_seq: int
    """The highest seq that was applied."""
    removals: tuple[Removal, ...]
    """The latest ones, ascending by version, at most `KEPT_REMOVALS`."""

    def removed_since(self, version: int) -> NDArray[np.int64] | None:
        """Return the seqs removed after that version, int64 [N]; None if that is too long ago."""
        if len(self.removals) == KEPT_REMOVALS and self.removals[0].version > version + 1:
            return None
        late = [removal.seqs for removal in self.removals if removal.version > version]
        return np.concatenate(late) if late else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """The state of an index, for gauges."""

    sealed_rows: int = 0
    """Rows in sealed segments, dead ones included."""
    delta_rows: int = 0
    dead_rows: int = 0
    """Rows in sealed segments that no search may return."""
    segments: int = 0
    builds: int = 0
    failed_builds: int = 0
    build_seconds: float = 0.0
    clip_rate: float = 0.0
    """The worst of the segments': part of the components that the codes cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What `verify` found."""

    rows: int
    """Live rows, each of which was searched for."""
    missing_seqs: tuple[int, ...]
    """Rows that do not find themselves."""
    damaged_files: tuple[str, ...]
    """Files whose content is not what was written, by folder and name."""


GivenUp: TypeAlias = Callable[[], bool]
"""Tells whether nobody waits for the work any more."""


def not_given_up() -> bool:
    """Tell that somebody waits."""
    return False


class VectorIndex(Protocol):
    """Vectors by seq, searched by cosine. One thread applies, any thread does the rest."""

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

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query: finite float32 [Q, D], one answer each.

        `allowed`, int64 ascending, are the only seqs that may be hits; all of them are if there
        are no more than `k`. `exact` looks at every row. An answer does not depend on the other
        queries. Raises InvalidArgument.
        """
        ...

    def plan(self, k: int, *, allowed_rows: int | None = None, exact: bool = False) -> SearchPlan:
        """Say how a search would be done now."""
        ...

    def verify(self, given_up: GivenUp = not_given_up) -> Verified:
        """Check every file and search for every row; takes its time.

        Raises StorageError, Draining once the index is closed or the check is given up.
        """
        ...

    def compact(self, given_up: GivenUp = not_given_up) -> None:
        """Rewrite what is kept of removed rows, so that nothing of them is left; takes its time.

        Raises StorageError, Draining once the index is closed or this is given up.
        """
        ...

    def lost_folders(self) -> list[str]:
        """Name the folders whose files are in force and not on disk any more."""
        ...

    def close(self) -> None:
        """Stop background work, now and for good. Searches under way go on; none may follow."""
        ...

    @property
    def state(self) -> State:
        """Tell how far the index has come: a search that begins now sees at least this."""
        ...

    @property
    def stats(self) -> IndexStats:
        """Tell the state, for gauges."""
        ...

    def __len__(self) -> int:
        """Count the vectors that a search can find."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        ...

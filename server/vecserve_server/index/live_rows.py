"""The rows of an index: sealed segments, minus the dead, beside an exact delta.

Owns what readers see: one snapshot, replaced as a whole at each transaction and each publication.
Must not know files, processes or when to build.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import InvalidArgument
from vecserve_server.index.segments.segment import Segment
from vecserve_server.index.segments.segment_files import QUANTISER
from vecserve_server.index.segments.segment_search import SegmentView
from vecserve_server.index.vectors.exact_index import (
    ExactIndex,
    ExactSnapshot,
    candidates_for,
    check_search,
)
from vecserve_server.index.vectors.planning import Costs, SegmentShape, choose_method
from vecserve_server.index.vectors.ranking import Candidates, rank
from vecserve_server.index.vectors.vector_index import (
    KEPT_REMOVALS,
    Method,
    Neighbours,
    Removal,
    SearchPlan,
    State,
)

NO_SEQS = np.empty(0, np.int64)
_EXACT_FACTOR = 4
_SMALL_DELTA_ROWS = 2048
_MOST_REMOVED_PIECES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSnapshot:
    """Everything that a search looks at, at one moment."""

    state: State
    views: tuple[SegmentView, ...]
    """In the order of their making."""
    deltas: tuple[ExactSnapshot, ...]

    @property
    def sealed_live(self) -> int:
        """Living rows in segments."""
        return sum(view.live for view in self.views)

    @property
    def delta_live(self) -> int:
        """Living rows that are not sealed."""
        return sum(delta.live for delta in self.deltas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What a build begins with: no row is added to it any more, though rows may die."""

    snapshot: LiveSnapshot
    sealed_seq: int
    """The highest seq that was ever applied or sealed."""


class LiveRows:
    """The segments and deltas in force. Searches take no lock; changes take one."""

    def __init__(self, *, dim: int, exact_rows: int, sealed_seq: int = 0) -> None:
        self.dim = dim
        self.costs = Costs()
        self._exact_rows = exact_rows
        self._changing = threading.Lock()
        self._last_seq = -1
        self._sealed_seq = sealed_seq
        self._deltas = [ExactIndex(dim=dim)]
        self._removed: list[NDArray[np.int64]] = []
        self._removed_rows = 0
        # Replaced as a whole and never changed: one read of the attribute is a consistent view.
        self._snapshot = LiveSnapshot(
            state=State(version=0, last_seq=sealed_seq, removals=()),
            views=(),
            deltas=(self._deltas[0].snapshot,),
        )

    @property
    def snapshot(self) -> LiveSnapshot:
        """What a search that began now would see."""
        return self._snapshot

    @property
    def state(self) -> State:
        """Tell how far the rows have come; see `VectorIndex.state`."""
        return self._snapshot.state

    @property
    def removed_rows(self) -> int:
        """Removals since `take_removed`."""
        return self._removed_rows

    def apply(
        self,
        *,
        added_seqs: NDArray[np.int64],
        added_vectors: NDArray[np.float16],
        removed_seqs: NDArray[np.int64],
    ) -> None:
        """Make one transaction visible; see `VectorIndex.apply`."""
        with self._changing:
            if len(added_seqs) and added_seqs[0] <= self._last_seq:
                raise InvalidArgument("added_seqs", f"do not ascend from above {self._last_seq}")
            before = self._snapshot
            version = before.state.version + 1
            *older, newest = self._deltas
            newest.apply(
                added_seqs=added_seqs, added_vectors=added_vectors, removed_seqs=removed_seqs
            )
            if len(added_seqs):
                self._last_seq = int(added_seqs[-1])
            for delta in older if len(removed_seqs) else ():
                delta.apply(
                    added_seqs=NO_SEQS, added_vectors=added_vectors[:0], removed_seqs=removed_seqs
                )
            views = self._without(before.views, removed_seqs, version)
            self._remember_removed(removed_seqs)
            self._show(version, views, removed_seqs)

    def add_segments(self, segments: Sequence[Segment], removed_seqs: NDArray[np.int64]) -> None:
        """Begin with segments of which some rows are dead already."""
        with self._changing:
            version = self._snapshot.state.version + 1
            views = tuple(
                SegmentView(segment=segment, version=version, dead=0) for segment in segments
            )
            self._remember_removed(removed_seqs)
            self._show(version, self._without(views, removed_seqs, version))

    def freeze(self) -> Frozen:
        """Begin a new delta, so that the rows so far can be sealed."""
        with self._changing:
            *older, newest = self._deltas
            # Builds that fail again and again must not leave ever more deltas behind.
            if older and newest.snapshot.rows <= _SMALL_DELTA_ROWS:
                for some in newest.snapshot.living():
                    older[-1].apply(
                        added_seqs=some.seqs, added_vectors=some.vectors, removed_seqs=NO_SEQS
                    )
                self._deltas = older
            if self._deltas[-1].snapshot.rows:
                self._deltas.append(ExactIndex(dim=self.dim, last_seq=self._last_seq))
            self._show(self._snapshot.state.version, self._snapshot.views)
            return Frozen(snapshot=self._snapshot, sealed_seq=self.state.last_seq)

    def replace(self, rewritten: Sequence[SegmentView], new: Segment | None) -> None:
        """Put a new segment in the place of the frozen deltas and of some segments.

        Nothing changes for searches but the way in which they find the same rows.
        """
        with self._changing:
            version = self._snapshot.state.version + 1
            gone = {id(view.segment) for view in rewritten}
            views = [view for view in self._snapshot.views if id(view.segment) not in gone]
            if new is not None:
                # Whatever died before or during the build, as far as the new segment has it.
                buried = new.bury(new.find(self._dead_seqs()), 0)
                views.append(SegmentView(segment=new, version=version, dead=buried))
            # The frozen deltas come first; the newest was begun after them.
            self._deltas = self._deltas[-1:]
            self._show(version, tuple(views))

    def take_removed(self) -> NDArray[np.int64]:
        """Return the removed seqs that no segment holds any more, once.

        Only between a freeze's replacement and the next freeze.
        """
        with self._changing:
            removed = np.unique(self._dead_seqs())
            held = np.zeros(len(removed), np.bool_)
            for view in self._snapshot.views:
                held |= np.isin(removed, view.segment.seqs[view.segment.find(removed)])
            self._removed = [removed[held]]
            self._removed_rows = 0
            return removed[~held]

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        allowed: NDArray[np.int64] | None = None,
        exact: bool = False,
    ) -> list[Neighbours]:
        """Find the `k` nearest vectors of each query; see `VectorIndex.search`."""
        check_search(queries, k, self.dim)
        snapshot = self._snapshot
        count = candidates_for(k) * (_EXACT_FACTOR if exact else 1)
        allowed_rows = None if allowed is None else len(allowed)
        method = self._method(snapshot, count, allowed_rows, exact)
        parts = [
            delta.candidates(queries, count, allowed) for delta in snapshot.deltas if delta.live
        ]
        codes = {}
        for view in snapshot.views if allowed_rows != 0 else ():
            made_by = view.segment.record.files[QUANTISER].sha256
            if made_by not in codes:
                codes[made_by] = view.segment.quantiser.encode(queries)
            parts.append(view.candidates(codes[made_by], count, method, allowed))
        return [
            rank(query, *_joined([part[place] for part in parts], self.dim), k)
            for place, query in enumerate(queries)
        ]

    def plan(self, k: int, *, allowed_rows: int | None = None, exact: bool = False) -> SearchPlan:
        """Say how a search would be done now; see `VectorIndex.plan`."""
        snapshot = self._snapshot
        method = self._method(snapshot, candidates_for(k), allowed_rows, exact)
        by_graph = method in ("graph", "graph_allowed")
        return SearchPlan(
            method=method,
            expansion=_expansion(snapshot) if by_graph else 0,
            sealed_rows=snapshot.sealed_live,
            delta_rows=snapshot.delta_live,
            allowed_rows=allowed_rows,
        )

    def shapes(self) -> list[SegmentShape]:
        """Describe the segments for the decision to build."""
        return [
            SegmentShape(
                rows=view.segment.rows,
                dead=view.dead,
                runs=len(view.segment.record.runs),
                lean=view.segment.record.metric == "cos",
            )
            for view in self._snapshot.views
        ]

    def __len__(self) -> int:
        snapshot = self._snapshot
        return snapshot.sealed_live + snapshot.delta_live

    @property
    def memory_bytes(self) -> int:
        """Memory held; vectors of sealed rows are on disk."""
        views = self._snapshot.views
        return sum(view.segment.memory_bytes for view in views) + sum(
            delta.memory_bytes for delta in self._deltas
        )

    def _method(
        self, snapshot: LiveSnapshot, candidates: int, allowed_rows: int | None, exact: bool
    ) -> Method:
        return choose_method(
            candidates=candidates,
            sealed_rows=snapshot.sealed_live,
            expansion=_expansion(snapshot),
            allowed_rows=allowed_rows,
            exact=exact,
            costs=self.costs,
            exact_rows=self._exact_rows,
        )

    def _without(
        self, views: Sequence[SegmentView], removed_seqs: NDArray[np.int64], version: int
    ) -> tuple[SegmentView, ...]:
        if not len(removed_seqs):
            return tuple(views)
        buried = [view.segment.bury(view.segment.find(removed_seqs), version) for view in views]
        return tuple(
            SegmentView(segment=view.segment, version=version, dead=view.dead + dead)
            for view, dead in zip(views, buried, strict=True)
        )

    def _dead_seqs(self) -> NDArray[np.int64]:
        return np.concatenate([NO_SEQS, *self._removed])

    def _remember_removed(self, seqs: NDArray[np.int64]) -> None:
        if len(seqs):
            self._removed.append(seqs)
            # A long build may see a million of transactions.
            if len(self._removed) > _MOST_REMOVED_PIECES:
                self._removed = [self._dead_seqs()]
            self._removed_rows += len(seqs)

    def _show(
        self,
        version: int,
        views: tuple[SegmentView, ...],
        removed_seqs: NDArray[np.int64] = NO_SEQS,
    ) -> None:
        removals = self._snapshot.state.removals
        if len(removed_seqs):
            removals = (*removals, Removal(version, removed_seqs))[-KEPT_REMOVALS:]
        last_seq = max(self._last_seq, self._sealed_seq)
        self._snapshot = LiveSnapshot(
            state=State(version=version, last_seq=last_seq, removals=removals),
            views=views,
            deltas=tuple(delta.snapshot for delta in self._deltas),
        )


def _expansion(snapshot: LiveSnapshot) -> int:
    largest = max(snapshot.views, key=lambda view: view.segment.rows, default=None)
    return largest.segment.record.expansion if largest else 0


def _joined(parts: Sequence[Candidates], dim: int) -> Candidates:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Candidates(NO_SEQS, np.empty((0, dim), np.float16))
    return Candidates(
        np.concatenate([part.seqs for part in parts]),
        np.concatenate([part.vectors for part in parts]),
    )

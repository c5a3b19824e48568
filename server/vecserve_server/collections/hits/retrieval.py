"""From queries to hits within one collection: filter, both searches, fusion, grouping.

Owns how deep each search goes and how an answer is explained. Blocking: for a search thread. Must
not know models, protocols or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecserve_server.collections.hits.fusion import (
    Candidate,
    Ranked,
    from_dense,
    from_lexical,
    fuse,
)
from vecserve_server.collections.hits.picking import (
    Picked,
    check_text_bytes,
    pick,
    with_texts,
)
from vecserve_server.domain.rows import Json, Row
from vecserve_server.domain.searching import (
    Fusion,
    Mode,
    QueryHits,
    ReciprocalRank,
    Wanted,
    WeightedSum,
)
from vecserve_server.domain.vectors import Vectors
from vecserve_server.errors import DeadlineExceeded
from vecserve_server.index.vectors.vector_index import VectorIndex
from vecserve_server.storage.files.read_limit import begin_query
from vecserve_server.storage.payloads.word_index import LexicalMatches
from vecserve_server.storage.rows.row_log import RowLog
from vecserve_server.storage.rows.sources import REPLY_TEXT_BYTES

MAX_DEPTH = 4096
"""Rows of one query that are looked at, where grouping needs more than k."""
MAX_CANDIDATES = 1 << 16
"""Rows that are looked at together; the queries of a call take turns where they need more."""
MAX_WORDY = 8
"""Queries with words that are answered before others get a turn."""
LEAST_FUSED = 100
"""Candidates of each side that are fused, at least."""

FUSION_NAMES: Mapping[type[Fusion], str] = {
    ReciprocalRank: "reciprocal_rank",
    WeightedSum: "weighted_sum",
}
T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""Work that may pause wherever it yields; in between it may change threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query: a unit vector float32 [D] unless lexical, words unless dense."""

    vector: Vectors | None = None
    text: str = ""
    leave_out: frozenset[str] = frozenset()
    """Ids that must not be among the hits."""


class Retrieval:
    """Searches over the rows and the index of one collection; any thread."""

    def __init__(self, *, log: RowLog, index: VectorIndex, clock_ns: Callable[[], int]) -> None:
        self._log = log
        self._index = index
        self._clock_ns = clock_ns

    def answer(
        self, asked: Sequence[Asked], wanted: Wanted, *, is_late: Callable[[], bool] | None = None
    ) -> list[QueryHits]:
        """Answer the queries.

        Raises DeadlineExceeded, Overloaded, CorruptData, StorageError, and InvalidArgument if the
        texts that are asked for are too large for one reply.
        """
        steps = self.steps(asked, wanted, is_late=is_late)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                answers: list[QueryHits] = end.value
                return answers

    def steps(
        self, asked: Sequence[Asked], wanted: Wanted, *, is_late: Callable[[], bool] | None = None
    ) -> Steps[list[QueryHits]]:
        """Answer the queries, some at a time; raises as `answer` does."""
        search = _Search(self._log, self._index, self._clock_ns, wanted, is_late)
        answers = yield from search.run(asked)
        # A row may be replaced between the filter, the index and the reading of rows. Once the
        # writer has published it all three know the new one, so asking once more finds it.
        again = [place for place, answer in enumerate(answers) if search.lacks(answer)]
        if again:
            search = _Search(self._log, self._index, self._clock_ns, wanted, is_late)
            found = yield from search.run([asked[place] for place in again])
            for place, answer in zip(again, found, strict=True):
                answers[place] = answer
        return [self._finished(answer, search, wanted) for answer in answers]

    def _finished(self, found: _Found, search: _Search, wanted: Wanted) -> QueryHits:
        explanation = search.explain(found) if wanted.explain else None
        return QueryHits(hits=found.picked.hits, explanation=explanation)


@dataclass(slots=True, kw_only=True)
class _Found:
    picked: Picked
    depth: int
    words: LexicalMatches | None
    is_exhausted: bool
    """True if no deeper search would find more."""


class _Search:
    """One run over some queries: one filter result, one set of timings."""

    def __init__(
        self,
        log: RowLog,
        index: VectorIndex,
        clock_ns: Callable[[], int],
        wanted: Wanted,
        is_late: Callable[[], bool] | None,
    ) -> None:
        self._log, self._index, self._clock_ns = log, index, clock_ns
        self._wanted, self._is_late = wanted, is_late
        self._spent_ns: dict[str, int] = {}
        self._allowed: NDArray[np.int64] | None = None
        # Before the filter is asked: what the index loses from now on it may have let through.
        self._version = index.state.version
        self._is_ahead = False

    def run(self, asked: Sequence[Asked]) -> Steps[list[_Found]]:
        """Search deeper for the queries that lack groups, until none does or it is deep enough."""
        self._allowed = self._matching()
        depth = self._first_depth(asked)
        found = yield from self._run_in_turns(asked, depth)
        while depth < MAX_DEPTH:
            depth = min(4 * depth, MAX_DEPTH)
            short = [place for place, one in enumerate(found) if self._may_find_more(one)]
            if not short:
                break
            deeper = yield from self._run_in_turns([asked[place] for place in short], depth)
            for place, one in zip(short, deeper, strict=True):
                found[place] = one
        if self._wanted.with_text:
            seqs = sorted({hit.seq for one in found for hit in one.picked.hits})
            rows = self._timed(
                "rows", lambda: self._log.by_seq(seqs, source_bytes=REPLY_TEXT_BYTES)
            )
            for one in found:
                one.picked = with_texts(one.picked, rows)
            check_text_bytes([one.picked for one in found], limit_bytes=REPLY_TEXT_BYTES)
        return found

    def lacks(self, found: _Found) -> bool:
        """Tell whether rows are missing that a write took away while they were looked for."""
        return found.picked.vanished or self._is_outdated()

    def _is_outdated(self) -> bool:
        """Tell whether the filter and the index may have seen different versions of a row."""
        if self._allowed is None:
            return False
        state = self._index.state
        removed = state.removed_since(self._version)
        if removed is None:
            return True
        if self._is_ahead:
            return len(removed) > 0 or state.last_seq < self._allowed[-1]
        first = np.searchsorted(self._allowed, removed)
        return bool((first < np.searchsorted(self._allowed, removed, side="right")).any())

    def explain(self, found: _Found) -> dict[str, Json]:
        """Say how an answer came about."""
        wanted, words = self._wanted, found.words
        explanation: dict[str, Any] = {"mode": wanted.mode.value, "depth": found.depth}
        if self._allowed is not None:
            explanation["filter"] = {"matched_rows": len(self._allowed), **self._took("filter")}
        if wanted.mode is not Mode.LEXICAL:
            allowed_rows = None if self._allowed is None else len(self._allowed)
            plan = self._index.plan(found.depth, allowed_rows=allowed_rows, exact=wanted.exact)
            explanation["dense"] = {**asdict(plan), **self._took("dense")}
        if words is not None:
            explanation["lexical"] = {
                "terms": words.terms,
                "dropped_terms": words.dropped_terms,
                "is_cut": words.is_cut,
                **self._took("lexical"),
            }
        if wanted.mode is Mode.HYBRID:
            explanation["fusion"] = {
                "method": FUSION_NAMES[type(wanted.fusion)],
                **asdict(wanted.fusion),
            }
        explanation["rows"] = {"read": found.picked.looked_at, **self._took("rows")}
        explanation["hits"] = [
            {"id": hit.id, "seq": hit.seq, "score": candidate.score, **_parts(candidate)}
            for hit, candidate in zip(found.picked.hits, found.picked.candidates, strict=True)
        ]
        return explanation

    def _run_in_turns(self, asked: Sequence[Asked], depth: int) -> Steps[list[_Found]]:
        together = max(1, MAX_CANDIDATES // depth)
        if self._wanted.mode is not Mode.DENSE:
            together = min(together, MAX_WORDY)
        found: list[_Found] = []
        for at in range(0, len(asked), together):
            yield
            begin_query(self._is_late)
            if self._is_late is not None and self._is_late():
                raise DeadlineExceeded("not all queries could be answered in the time there was")
            found += self._run_once(asked[at : at + together], depth)
        return found

    def _run_once(self, asked: Sequence[Asked], depth: int) -> list[_Found]:
        dense = self._dense(asked, depth)
        words = self._lexical(asked, depth)
        candidates = [self._fused(*sides) for sides in zip(dense, words, strict=True)]
        wanted = self._wanted
        # Without grouping so many candidates hold k hits for sure.
        looked_at = [
            found[: depth if wanted.group_by else wanted.k + len(one.leave_out)]
            for found, one in zip(candidates, asked, strict=True)
        ]
        rows = self._rows(looked_at)
        return [
            _Found(
                picked=pick(some, rows, wanted, leave_out=one.leave_out),
                depth=depth,
                words=matches,
                is_exhausted=all(len(side.seqs) < depth for side in sides if side is not None),
            )
            for some, one, matches, sides in zip(
                looked_at, asked, words, zip(dense, words, strict=True), strict=True
            )
        ]

    def _may_find_more(self, found: _Found) -> bool:
        picked = found.picked
        is_short = len(picked.hits) < self._wanted.k and not picked.reached_min_score
        return bool(self._wanted.group_by) and is_short and not found.is_exhausted

    def _first_depth(self, asked: Sequence[Asked]) -> int:
        depth = self._wanted.k + max((len(one.leave_out) for one in asked), default=0)
        if self._wanted.group_by:
            depth *= 2
        return max(depth, LEAST_FUSED) if self._wanted.mode is Mode.HYBRID else depth

    def _matching(self) -> NDArray[np.int64] | None:
        # The lexical side puts the condition into its own statement.
        condition = self._wanted.condition
        if condition is None or self._wanted.mode is Mode.LEXICAL:
            return None
        begin_query(self._is_late)
        allowed = self._timed(
            "filter", lambda: self._log.queries.seqs(condition, is_late=self._is_late)
        )
        # Rows are committed before the index has them.
        self._is_ahead = len(allowed) > 0 and bool(allowed[-1] > self._index.state.last_seq)
        return allowed

    def _dense(self, asked: Sequence[Asked], depth: int) -> Sequence[Ranked | None]:
        vectors = [one.vector for one in asked if one.vector is not None]
        if self._wanted.mode is Mode.LEXICAL or not vectors:
            return [None] * len(asked)
        return self._timed(
            "dense",
            lambda: self._index.search(
                np.stack(vectors), depth, allowed=self._allowed, exact=self._wanted.exact
            ),
        )

    def _lexical(self, asked: Sequence[Asked], depth: int) -> Sequence[LexicalMatches | None]:
        if self._wanted.mode is Mode.DENSE:
            return [None] * len(asked)
        return self._timed("lexical", lambda: [self._words_of(one, depth) for one in asked])

    def _words_of(self, one: Asked, depth: int) -> LexicalMatches:
        begin_query(self._is_late)
        return self._log.queries.lexical(
            one.text,
            depth,
            row_count=self._log.count(),
            condition=self._wanted.condition,
            is_late=self._is_late,
        )

    def _fused(self, dense: Ranked | None, lexical: Ranked | None) -> list[Candidate]:
        if dense is not None and lexical is not None:
            return fuse(dense, lexical, self._wanted.fusion)
        if dense is not None:
            return from_dense(dense)
        return from_lexical(lexical) if lexical is not None else []

    def _rows(self, candidates: Sequence[Sequence[Candidate]]) -> Mapping[int, Row]:
        seqs = sorted({candidate.seq for some in candidates for candidate in some})
        return self._timed("rows", lambda: self._log.by_seq(seqs))

    def _timed(self, stage: str, work: Callable[[], T]) -> T:
        started_ns = self._clock_ns()
        result = work()
        spent_ns = self._clock_ns() - started_ns
        self._spent_ns[stage] = self._spent_ns.get(stage, 0) + spent_ns
        return result

    def _took(self, stage: str) -> dict[str, int]:
        return {"microseconds": self._spent_ns.get(stage, 0) // 1000}


def _parts(candidate: Candidate) -> dict[str, Json]:
    sides = {"dense": candidate.dense, "lexical": candidate.lexical}
    return {
        name: {"rank": part.rank, "score": part.score}
        for name, part in sides.items()
        if part is not None
    }

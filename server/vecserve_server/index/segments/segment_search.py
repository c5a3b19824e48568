"""Searching one segment as it was at one moment.

Owns the ways to search a segment and what to do when a graph yields too little. Must not know
other segments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.vectors import Codes
from vecserve_server.index.segments.segment import NO_ROWS, Rows, Segment
from vecserve_server.index.vectors.planning import expansion_for, filtered_count
from vecserve_server.index.vectors.ranking import Candidates
from vecserve_server.index.vectors.vector_index import Method

_SPARE = 1.2
# Too few rows came back: ask once for this many times more, then look at all of them.
_SECOND_TRY = 4
_MOST_FROM_GRAPH = 8192
# Looking at a picked row costs so many times more than at a row in a scan.
_PICKING_COST = 4
# A scan goes by codes alone, whose order is not quite that of the vectors.
_SCANNED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentView:
    """A segment in one version of the index."""

    segment: Segment
    version: int
    dead: int

    @property
    def live(self) -> int:
        """Rows that a search can find."""
        return self.segment.rows - self.dead

    def candidates(
        self,
        codes: Codes,
        count: int,
        method: Method,
        allowed: NDArray[np.int64] | None,
    ) -> list[Candidates]:
        """Return about the `count` best rows of each code, int8 [Q, D], or all if there are fewer.

        Living ones, and among `allowed` where that is given.
        """
        segment = self.segment
        if method == "scan_allowed" and allowed is not None:
            matching = self._allowed_rows(allowed)
            found = [segment.nearest_of(matching, code, count) for code in codes]
        elif method == "scan":
            found = segment.scan(codes, count, self._mask(allowed))
        else:
            found = self._from_graph(codes, count, allowed)
        return [Candidates(segment.seqs[rows], segment.vectors(rows)) for rows in found]

    def _from_graph(
        self, codes: Codes, count: int, allowed: NDArray[np.int64] | None
    ) -> list[Rows]:
        segment = self.segment
        matching = self.live if allowed is None else min(self.live, len(self._in_range(allowed)))
        if not matching:
            return [NO_ROWS] * len(codes)
        enough = min(count, matching)
        asked = math.ceil(count * (segment.rows / self.live) * (_SPARE if self.dead else 1))
        if allowed is not None:
            asked = filtered_count(asked, matching, self.live)
        answers: dict[int, Rows] = {}
        waiting = list(range(len(codes)))
        for tries in (1, _SECOND_TRY):
            breadth = min(asked * tries, segment.rows)
            if not waiting or breadth > _MOST_FROM_GRAPH:
                break
            expansion = expansion_for(breadth, segment.record.expansion)
            found = segment.graph_search(codes[waiting], breadth, expansion)
            for place, rows in zip(waiting, found, strict=True):
                kept = self._keep(rows, allowed)
                if len(kept) >= enough:
                    answers[place] = self._with_strays(kept[:count], codes[place], allowed)
            waiting = [place for place in waiting if place not in answers]
        for place in waiting:
            answers[place] = self._exactly(codes[place], _SCANNED * count, allowed)
        return [answers[place] for place in range(len(codes))]

    def _exactly(self, code: Codes, count: int, allowed: NDArray[np.int64] | None) -> Rows:
        if allowed is not None and len(self._in_range(allowed)) * _PICKING_COST < self.segment.rows:
            return self.segment.nearest_of(self._allowed_rows(allowed), code, count)
        return self.segment.scan(code[np.newaxis], count, self._mask(allowed))[0]

    def _with_strays(self, rows: Rows, code: Codes, allowed: NDArray[np.int64] | None) -> Rows:
        if not len(self.segment.strays):
            return rows
        strays = self._keep(self.segment.strays, allowed)
        return cast("Rows", np.union1d(rows, self.segment.nearest_of(strays, code, len(rows))))

    def _keep(self, rows: Rows, allowed: NDArray[np.int64] | None) -> Rows:
        living = self.segment.alive(rows, self.version) if self.dead else rows
        if allowed is None:
            return living
        seqs = self.segment.seqs[living]
        places = np.minimum(np.searchsorted(allowed, seqs), len(allowed) - 1)
        return cast("Rows", living[allowed[places] == seqs])

    def _in_range(self, allowed: NDArray[np.int64]) -> NDArray[np.int64]:
        record = self.segment.record
        first, last = np.searchsorted(allowed, (record.first_seq, record.last_seq + 1))
        return allowed[first:last]

    def _allowed_rows(self, allowed: NDArray[np.int64]) -> Rows:
        return self.segment.alive(self.segment.find(self._in_range(allowed)), self.version)

    def _mask(self, allowed: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        living = self.segment.living(self.version)
        return living if allowed is None else living & self.segment.among(allowed)

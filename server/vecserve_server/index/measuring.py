"""What searching costs on this machine, found out by doing it.

Owns the measurements, each taken once in a process. Must not know what follows from them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import cast

import numkong
import numpy as np
from usearch.index import Index

from vecserve_server.domain import Codes, Vectors
from vecserve_server.index.exact_index import ExactIndex
from vecserve_server.index.planning import Costs
from vecserve_server.index.quantiser import MaxAbsQuantiser

_ROWS = (2048, 16384)
_GRAPH_ROWS = 4096
_STEP = 8
_ROUNDS = 15


class MeasuredCosts:
    """Costs by number of dimensions. Safe to use from several threads."""

    def __init__(self, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self._clock_s = clock_s
        self._measuring = threading.Lock()
        self._known: dict[int, Costs] = {}

    def measure(self, dim: int) -> Costs:
        """Return the costs; the first time that takes about a second."""
        with self._measuring:
            if dim not in self._known:
                self._known[dim] = self._measured(dim)
            return self._known[dim]

    def _measured(self, dim: int) -> Costs:
        vectors = _clustered(_ROWS[1] + _ROUNDS + 1, dim)
        delta_us = [self._delta_us(vectors[:rows]) for rows in _ROWS]
        codes = MaxAbsQuantiser().encode(vectors)
        graph = Index(ndim=dim, dtype="i8", metric="l2sq", connectivity=24, expansion_add=64)
        graph.add(np.arange(_GRAPH_ROWS), codes[:_GRAPH_ROWS], threads=1)
        picked = np.arange(0, len(codes), _STEP)
        query, queries = codes[:1], iter(codes[_ROWS[1] :])

        def scan(block: Codes) -> None:
            np.asarray(numkong.cdist(query, block, "sqeuclidean", out_dtype="float32"))

        return Costs(
            delta_row_us=max(delta_us[1] - delta_us[0], 1.0) / (_ROWS[1] - _ROWS[0]),
            scan_row_us=self._time_us(lambda: scan(codes)) / len(codes),
            gather_row_us=self._time_us(lambda: scan(np.take(codes, picked, axis=0))) / len(picked),
            graph_us=self._time_us(lambda: graph.search(next(queries), 20, threads=1)),
        )

    def _delta_us(self, vectors: Vectors) -> float:
        index = ExactIndex(dim=vectors.shape[1])
        index.apply(
            added_seqs=np.arange(len(vectors)),
            added_vectors=vectors.astype(np.float16),
            removed_seqs=np.empty(0, np.int64),
        )
        return self._time_us(lambda: index.search(vectors[:1], 10))

    def _time_us(self, work: Callable[[], object]) -> float:
        work()
        times_s = []
        for _ in range(_ROUNDS):
            began_s = self._clock_s()
            work()
            times_s.append(self._clock_s() - began_s)
        return statistics.median(times_s) * 1e6


def _clustered(rows: int, dim: int) -> Vectors:
    # A graph of vectors without any structure would be searched for longer than real ones are.
    random = np.random.default_rng(0)
    centres = random.standard_normal((rows // 64, dim), np.float32)
    noise = random.standard_normal((rows, dim), np.float32)
    return cast("Vectors", centres[random.integers(len(centres), size=rows)] + 0.7 * noise)

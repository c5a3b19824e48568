"""What searching costs on this machine, found out by doing it.

Owns the measurements, each taken once in a process. Must not know what follows from them.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import numkong
import numpy as np
from usearch.index import Index

from vecserve_server.index.planning import Costs

_ROWS, _PICKED_ROWS = 4096, 2048
_SCANNED_ROWS = 16384
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
        random = np.random.default_rng(0)
        codes = random.integers(-90, 90, (_SCANNED_ROWS, dim)).astype(np.int8)
        graph = Index(ndim=dim, dtype="i8", metric="l2sq", connectivity=24, expansion_add=64)
        graph.add(np.arange(_ROWS), codes[:_ROWS], threads=1)
        packed = numkong.dots_pack(codes[:2048])
        picked = np.sort(random.choice(_SCANNED_ROWS, _PICKED_ROWS, replace=False))
        query = codes[:1]

        def scan() -> None:
            np.asarray(numkong.cdist(query, codes, "sqeuclidean", out_dtype="float32"))

        def scan_packed() -> None:
            np.asarray(numkong.dots_packed(query, packed))

        def pick() -> None:
            block = np.take(codes, picked, axis=0)
            np.asarray(numkong.cdist(query, block, "sqeuclidean", out_dtype="float32"))

        queries = iter(codes[_ROWS : _ROWS + _ROUNDS + 1])

        def search() -> None:
            graph.search(next(queries), 20, threads=1)

        return Costs(
            delta_row_us=self._time_us(scan_packed) / 2048,
            scan_row_us=self._time_us(scan) / _SCANNED_ROWS,
            gather_row_us=self._time_us(pick) / _PICKED_ROWS,
            graph_us=self._time_us(search),
        )

    def _time_us(self, work: Callable[[], None]) -> float:
        work()
        times_s = []
        for _ in range(_ROUNDS):
            began_s = self._clock_s()
            work()
            times_s.append(self._clock_s() - began_s)
        return statistics.median(times_s) * 1e6

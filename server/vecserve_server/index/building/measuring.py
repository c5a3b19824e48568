"""What searching costs on this machine, found out by doing it.

Owns the measurements, each taken once, in a process of its own, so that they leave no memory behind
and hold up no search: `python -m vecserve_server.index.building.measuring DIM`. Must not know what
follows from them.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import cast

import numkong
import numpy as np
from usearch.index import Index

from vecserve_server.domain.vectors import Codes, Vectors
from vecserve_server.index.vectors.exact_index import ExactIndex
from vecserve_server.index.vectors.planning import Costs
from vecserve_server.index.vectors.quantiser import MaxAbsQuantiser
from vecserve_server.observability.logging import get_logger, log_event

_ROWS = (2048, 16384)
_GRAPH_ROWS = 4096
_STEP = 8
_ROUNDS = 15
_CACHES_BYTES = 64 << 20
_TIMEOUT_S = 120.0


class MeasuredCosts:
    """Costs by number of dimensions. Safe to use from several threads."""

    def __init__(self, measure: Callable[[int], Costs] | None = None) -> None:
        self._measure = measure or _measured_elsewhere
        self._measuring = threading.Lock()
        self._known: dict[int, Costs] = {}

    def measure(self, dim: int) -> Costs:
        """Return the costs; the first time that takes some seconds."""
        with self._measuring:
            if dim not in self._known:
                self._known[dim] = self._measure(dim)
            return self._known[dim]


def measure_costs(dim: int, clock_s: Callable[[], float] = time.perf_counter) -> Costs:
    """Measure what each way of searching costs."""
    vectors = _clustered(_ROWS[1] + _ROUNDS + 1, dim)
    codes = MaxAbsQuantiser().encode(vectors)
    graph = Index(ndim=dim, dtype="i8", metric="l2sq", connectivity=24, expansion_add=64)
    graph.add(np.arange(_GRAPH_ROWS), codes[:_GRAPH_ROWS], threads=1)
    picked = np.arange(0, len(codes), _STEP)
    query, queries = codes[:1], iter(codes[_ROWS[1] :])

    def scan(block: Codes) -> None:
        np.asarray(numkong.cdist(query, block, "sqeuclidean", out_dtype="float32"))

    def time_us(work: Callable[[], object]) -> float:
        return _time_us(work, clock_s)

    small, large = (_delta(vectors[:rows]) for rows in _ROWS)
    delta_us = time_us(lambda: large.search(vectors[:1], 10)) - time_us(
        lambda: small.search(vectors[:1], 10)
    )
    return Costs(
        delta_row_us=max(delta_us, 1.0) / (_ROWS[1] - _ROWS[0]),
        scan_row_us=time_us(lambda: scan(codes)) / len(codes),
        gather_row_us=time_us(lambda: scan(np.take(codes, picked, axis=0))) / len(picked),
        graph_us=time_us(lambda: graph.search(next(queries), 20, threads=1)),
    )


def _measured_elsewhere(dim: int) -> Costs:
    command = [sys.executable, "-m", "vecserve_server.index.building.measuring", str(dim)]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter and module
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=True
        )
        return Costs(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log_event(get_logger("index"), logging.WARNING, "costs_not_measured", error=error)
        return Costs()


def _delta(vectors: Vectors) -> ExactIndex:
    index = ExactIndex(dim=vectors.shape[1])
    index.apply(
        added_seqs=np.arange(len(vectors)),
        added_vectors=vectors.astype(np.float16),
        removed_seqs=np.empty(0, np.int64),
    )
    return index


def _time_us(work: Callable[[], object], clock_s: Callable[[], float]) -> float:
    # What a search reads is seldom in the caches that encoders fill all the time.
    other = np.zeros(_CACHES_BYTES // 8)
    work()
    times_s = []
    for _ in range(_ROUNDS):
        other += 1
        began_s = clock_s()
        work()
        times_s.append(clock_s() - began_s)
    return statistics.median(times_s) * 1e6


def _clustered(rows: int, dim: int) -> Vectors:
    # A graph of vectors without any structure would be searched for longer than real ones are.
    random = np.random.default_rng(0)
    centres = random.standard_normal((rows // 64, dim), np.float32)
    noise = random.standard_normal((rows, dim), np.float32)
    return cast("Vectors", centres[random.integers(len(centres), size=rows)] + 0.7 * noise)


if __name__ == "__main__":
    print(json.dumps(asdict(measure_costs(int(sys.argv[1])))))  # noqa: T201

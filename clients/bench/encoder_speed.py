"""Texts per second of several ways to encode, side by side.

Owns the two worker threads, the queue of 32 and the interleaving: a round runs every way once, and
ratios are taken within a round, so that what else the machine does cancels out.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.encoding.encoder_session import EncoderSession
from vecserve_server.encoding.packing import Arrays, pack
from vecserve_server.encoding.planning import RunPlanner

Sequences: TypeAlias = Sequence[NDArray[np.int64]]
Job: TypeAlias = Callable[[], object]
Way: TypeAlias = Callable[[Sequences], list[Job]]
"""A way to encode: it makes jobs of texts."""

QUEUED = 32
WORKERS = 2
PASSES = 4
"""Over the texts in one measurement; that one worker idles at the end weighs less then."""


def packed(engine: EncoderSession, planner: RunPlanner) -> Way:
    """Plan a run whenever a worker is free, as the server does, from a queue kept at 32."""

    def jobs(sequences: Sequences) -> list[Job]:
        waiting = _Waiting(planner, sequences)
        return [lambda: _run_all(engine, waiting)] * WORKERS

    return jobs


def one_by_one(run: Callable[[Sequences], object]) -> Way:
    """Run every text alone."""
    return lambda sequences: [lambda ids=ids: run([ids]) for ids in sequences]  # type: ignore[misc]


def in_arrival_order(run: Callable[[Sequences], object]) -> Way:
    """Run each queue of 32 as one padded batch."""
    return lambda sequences: [
        lambda queued=queued: run(queued)  # type: ignore[misc]
        for queued in _queues(sequences)
    ]


def compare(
    ways: Mapping[str, Way], sequences: Sequences, *, rounds: int, slow: Collection[str] = ()
) -> dict[str, list[float]]:
    """Return texts per second by way, one figure for each round; `slow` ways make one pass."""
    todo = {name: [*sequences] * (1 if name in slow else PASSES) for name in ways}
    for way in ways.values():
        _rate(way, sequences)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            speeds[name].append(_rate(way, todo[name]))
    return speeds


def ratio(speeds: Mapping[str, Sequence[float]], way: str, base: str) -> float:
    """Return how much faster a way is: the median over rounds."""
    pairs = zip(speeds[way], speeds[base], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


class _Waiting:
    """Texts that come in as fast as they are taken; safe to take from in several threads."""

    def __init__(self, planner: RunPlanner, sequences: Sequences) -> None:
        self._planner = planner
        self._coming = iter(sequences)
        self._queued: list[NDArray[np.int64]] = []
        self._taking = threading.Lock()

    def take(self) -> Arrays | None:
        """Return the run that has the oldest text, ready to be computed; None at the end."""
        with self._taking:
            queued = self._queued
            queued += islice(self._coming, QUEUED - len(queued))
            if not queued:
                return None
            planned = self._planner.packed([len(ids) for ids in queued])
            run = next(run for run in planned if any(0 in row for row in run.rows))
            taken = {index for row in run.rows for index in row}
            self._queued = [ids for index, ids in enumerate(queued) if index not in taken]
        return pack(queued, run.rows, run.shape)


def _run_all(engine: EncoderSession, waiting: _Waiting) -> None:
    while (feeds := waiting.take()) is not None:
        engine.run(feeds)


def _queues(sequences: Sequences) -> list[Sequences]:
    return [sequences[at : at + QUEUED] for at in range(0, len(sequences), QUEUED)]


def _rate(way: Way, sequences: Sequences) -> float:
    started = time.perf_counter()
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in way(sequences):
        todo.put(job)
    workers = [threading.Thread(target=_work, args=(todo,)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(sequences) / (time.perf_counter() - started)


def _work(todo: queue.SimpleQueue[Job]) -> None:
    while True:
        try:
            job = todo.get_nowait()
        except queue.Empty:
            return
        job()

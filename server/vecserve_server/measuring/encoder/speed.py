"""Texts per second of several ways to encode, side by side.

Owns the worker threads, the queue and the interleaving: a round runs every way once, and ratios are
taken within a round, so that what else the machine does cancels out.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.measuring.encoder.subject import (
    QUEUED,
    WORKERS,
    Sequences,
    Subject,
    queues,
)
from vecserve_server.measuring.statistics import median_ratio

Job: TypeAlias = Callable[[], object]
Way: TypeAlias = Callable[[Sequences], list[Job]]
"""A way to encode: it makes jobs of texts."""

_PASSES: Final = 4
"""Over the texts in one measurement; that one worker idles at the end weighs less then."""


def packed(subject: Subject) -> Way:
    """Choose a run whenever a worker is free, as the server does, from a queue kept full."""

    def jobs(sequences: Sequences) -> list[Job]:
        waiting = _Waiting(subject, sequences)
        return [lambda: _run_all(subject, waiting)] * WORKERS

    return jobs


def one_by_one(run: Callable[[Sequences], object]) -> Way:
    """Run every text alone."""
    return lambda sequences: [partial(run, [ids]) for ids in sequences]


def in_arrival_order(run: Callable[[Sequences], object]) -> Way:
    """Run each queue as one padded batch."""
    return lambda sequences: [partial(run, queued) for queued in queues(sequences)]


def compare(
    ways: Mapping[str, Way], sequences: Sequences, *, rounds: int, slow: Collection[str] = ()
) -> dict[str, list[float]]:
    """Return texts per second by way, one figure for each round; `slow` ways make one pass."""
    todo = {name: [*sequences] * (1 if name in slow else _PASSES) for name in ways}
    for way in ways.values():
        _rate(way, sequences)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            speeds[name].append(_rate(way, todo[name]))
    return speeds


def ratio(speeds: Mapping[str, Sequence[float]], way: str, base: str) -> float:
    """Return how much faster a way is: the median over rounds."""
    return round(median_ratio(speeds[way], speeds[base]), 3)


def run_threads(works: Sequence[Job]) -> None:
    """Run each work in a thread of its own, and wait for all."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Waiting:
    """Texts that come in as fast as they are taken; safe to take from in several threads."""

    def __init__(self, subject: Subject, sequences: Sequences) -> None:
        self._subject = subject
        self._coming = iter(sequences)
        self._queued: list[NDArray[np.int64]] = []
        self._taking = threading.Lock()

    def take(self) -> list[NDArray[np.int64]]:
        """Return the run that has the oldest text; empty at the end."""
        with self._taking:
            queued = self._queued
            queued += islice(self._coming, QUEUED - len(queued))
            if not queued:
                return []
            taken = set(self._subject.together([len(ids) for ids in queued]))
            self._queued = [ids for index, ids in enumerate(queued) if index not in taken]
            return [ids for index, ids in enumerate(queued) if index in taken]


def _run_all(subject: Subject, waiting: _Waiting) -> None:
    while taken := waiting.take():
        subject.run(taken)


def _rate(way: Way, sequences: Sequences) -> float:
    started = time.perf_counter()
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in way(sequences):
        todo.put(job)
    run_threads([partial(_work, todo)] * WORKERS)
    return len(sequences) / (time.perf_counter() - started)


def _work(todo: queue.SimpleQueue[Job]) -> None:
    while True:
        try:
            job = todo.get_nowait()
        except queue.Empty:
            return
        job()

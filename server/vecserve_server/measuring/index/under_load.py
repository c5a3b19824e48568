"""Searches while rows arrive and while a segment is rebuilt, in turns with searches that are alone.

A rebuild takes minutes, so its process is halted for the blocks that it is compared with: the two
kinds of blocks then lie seconds apart, and what else the machine does cancels out.
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from vecserve_server.errors import Draining
from vecserve_server.measuring.index.data import Vectors, synthetic
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import quantiles, search_for
from vecserve_server.measuring.processes import descendants
from vecserve_server.measuring.reports import Report
from vecserve_server.measuring.statistics import paired_ratios, percentile

BLOCK_S = 3.0
_STARTING_S = 60.0


def under_ingest(subject: Subject, queries: Vectors, *, blocks: int, rows_per_s: int) -> Report:
    """Compare blocks in which rows arrive, each batch fsynced, with blocks in which none do."""
    share = int(rows_per_s * BLOCK_S * 1.2) + 64
    more = synthetic(blocks * share, queries.shape[1], 2, seed=7).vectors
    alone, loaded, after = [], [], []
    for part in np.array_split(more, blocks):
        alone.append(search_for(subject, queries, BLOCK_S))
        with subject.arriving(part, rows_per_s) as written:
            loaded.append(search_for(subject, queries, BLOCK_S))
        after.append({"written": written[0], "delta_rows": subject.index.stats.delta_rows})
    return _compared(alone, loaded) | {"after_each_block": after}


def under_rebuild(subject: Subject, queries: Vectors, *, seconds: float) -> Report:
    """Compare blocks in which all rows are rebuilt with blocks in which the builder is halted.

    Stops where the rebuild ends or after so many seconds. The subject may not be used any more.
    """
    alone, loaded = [], []
    deadline_s = time.monotonic() + seconds
    subject.delete(sorted(subject.number_of.values())[:1])  # a segment without dead rows is kept
    with _rebuilding(subject) as rebuild:
        _await_builder(rebuild)
        while rebuild.is_alive() and time.monotonic() < deadline_s:
            loaded.append(search_for(subject, queries, BLOCK_S, rebuild.is_alive))
            with _halted(_builders()) as halted:
                if halted:
                    alone.append(search_for(subject, queries, BLOCK_S))
        finished = not rebuild.is_alive()
        if not alone:  # it was over within a block
            alone.append(search_for(subject, queries, BLOCK_S))
        subject.index.close()
    return _compared(alone, loaded) | {"finished": finished}


def _compared(alone: Sequence[list[float]], loaded: Sequence[list[float]]) -> Report:
    """Return percentiles, and the median over neighbours of the ratio between their p95."""
    idle_us, busy_us = ([percentile(block, 95) for block in blocks] for blocks in (alone, loaded))
    ratios = paired_ratios(busy_us, idle_us)
    return {
        "idle": quantiles([taken for block in alone for taken in block]),
        "loaded": quantiles([taken for block in loaded for taken in block]),
        "longest_ms": round(max(max(block) for block in loaded) / 1e3, 1),
        "p95_ratios": [round(ratio, 2) for ratio in ratios],
        "p95_ratio_median": round(statistics.median(ratios), 3),
    }


@contextmanager
def _rebuilding(subject: Subject) -> Iterator[threading.Thread]:
    def compact() -> None:
        try:
            subject.index.compact()
        except Draining:
            return

    worker = threading.Thread(target=compact, name="rebuild")
    worker.start()
    yield worker
    worker.join()


def _await_builder(rebuild: threading.Thread) -> None:
    deadline_s = time.monotonic() + _STARTING_S
    while rebuild.is_alive() and not _builders() and time.monotonic() < deadline_s:
        time.sleep(0.05)


@contextmanager
def _halted(processes: Collection[int]) -> Iterator[bool]:
    """Stop processes and let them go on afterwards; tell whether there were any."""
    try:
        stopped = [_signalled(process, signal.SIGSTOP) for process in processes]
        yield any(stopped)
    finally:
        for process in processes:
            _signalled(process, signal.SIGCONT)


def _signalled(process: int, number: signal.Signals) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True


def _builders() -> set[int]:
    return descendants(os.getpid())

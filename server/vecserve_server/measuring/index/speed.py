"""The index and its peers in turns, one query at a time, in one thread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

from vecserve_server.measuring.index.data import Dataset, Rows, Vectors, recall
from vecserve_server.measuring.index.peers import Peer, build_peers
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import K, quantiles, timed_us
from vecserve_server.measuring.reports import Report, tell
from vecserve_server.measuring.statistics import percentile

Search: TypeAlias = Callable[[Vectors], Rows]

_OURS: Final = "vecserve"
_ROUND_QUERIES: Final = 100
_BATCH, _BATCHES = 32, 10
_LOST_RECALL: Final = 0.002
"""By which a peer may be behind."""


def measure_speed(
    subject: Subject, data: Dataset, truth: Sequence[Rows], *, peers: bool, rounds: int
) -> Report:
    """Return recall and latency of everybody, by name."""
    searches: dict[str, Search] = {
        _OURS: lambda query: subject.search_one(query, K),
        f"{_OURS}-exact": lambda query: subject.search_one(query, K, exact=True),
    }
    facts: dict[str, Report] = {
        name: {
            "recall": round(recall([subject.rows_of(search(q)) for q in data.queries], truth), 4)
        }
        for name, search in searches.items()
    }
    for peer in build_peers(data.vectors) if peers else []:
        searches[peer.name] = _search_of(peer)
        facts[peer.name] = _tuned(peer, data, truth, facts[_OURS]["recall"] - _LOST_RECALL)
    times_us = _in_turns(searches, data.queries, rounds)
    ours_us = percentile(times_us[_OURS], 50)
    for name, taken_us in times_us.items():
        ratio = round(percentile(taken_us, 50) / ours_us, 3)
        facts[name] |= quantiles(taken_us) | {"p50_ratio": ratio}
    batch_us = _batch_us(subject, data.queries[: _BATCH * _BATCHES])
    facts[f"{_OURS}-batch-{_BATCH}"] = {"us_per_query": round(batch_us, 1)}
    return facts


def _tuned(peer: Peer, data: Dataset, truth: Sequence[Rows], wanted: float) -> Report:
    """Tune a peer on half of the queries; return what came of it."""
    tell("peer", {peer.name: round(peer.build_s, 1)})
    half = len(data.queries) // 2
    peer.tune(data.queries[:half], truth[:half], K, wanted)
    return {
        "recall": round(recall([peer.search(q, K) for q in data.queries], truth), 4),
        "breadth": peer.breadth,
        "build_s": round(peer.build_s, 2),
    }


def _search_of(peer: Peer) -> Search:
    return lambda query: peer.search(query, K)


def _in_turns(
    searches: Mapping[str, Search], queries: Vectors, rounds: int
) -> dict[str, list[float]]:
    times_us: dict[str, list[float]] = {name: [] for name in searches}
    random = np.random.default_rng(0)
    count = min(_ROUND_QUERIES, len(queries))
    for _ in range(rounds):
        chosen = queries[random.choice(len(queries), count, replace=False)]
        for name in random.permutation(list(searches)).tolist():
            times_us[name] += timed_us(searches[name], chosen)
    return times_us


def _batch_us(subject: Subject, queries: Vectors) -> float:
    times_us = []
    for start in range(0, len(queries), _BATCH):
        began_s = time.perf_counter()
        subject.search(queries[start : start + _BATCH], K)
        times_us.append((time.perf_counter() - began_s) * 1e6 / _BATCH)
    return statistics.median(times_us)

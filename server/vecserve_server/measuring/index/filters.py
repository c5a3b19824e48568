"""Searches that a filter narrows: any rows, or those near or far of the queries."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from vecserve_server.measuring.index.data import Dataset, Rows, exact, recall
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import K, quantiles, timed_us
from vecserve_server.measuring.reports import Report
from vecserve_server.measuring.statistics import percentile

_QUERIES: Final = 400
_PARTS: Final = (0.5, 0.1, 0.01, 0.001)
_KINDS: Final = ("random", "correlated", "anticorrelated")


def measure_filters(subject: Subject, data: Dataset) -> Report:
    """Return latency and recall by the part of the rows that is let through, and which they are."""
    queries = data.queries[:_QUERIES]
    scan_us = timed_us(lambda query: subject.search_one(query, K, exact=True), queries)
    report: Report = {"unfiltered_scan": quantiles(scan_us)}
    for part in _PARTS:
        for kind in _KINDS:
            rows = _allowed(data, part, kind)
            report[f"{part:g} {kind}"] = _measure(subject, data, rows, percentile(scan_us, 95))
    return report


def _measure(subject: Subject, data: Dataset, rows: Rows, scan_p95_us: float) -> Report:
    queries = data.queries[:_QUERIES]
    allowed = np.sort(subject.seqs_of(rows))
    found, times_us = [], []
    for query in queries:
        began_s = time.perf_counter()
        [seqs] = subject.search(query[np.newaxis], K, allowed=allowed)
        times_us.append((time.perf_counter() - began_s) * 1e6)
        found.append(subject.rows_of(seqs))
    return quantiles(times_us) | {
        "method": subject.index.plan(K, allowed_rows=len(allowed)).method,
        "recall": round(recall(found, exact(data.vectors, queries, K, rows)), 4),
        "fewest_hits": min(len(hits) for hits in found),
        "p95_of_scan": round(percentile(times_us, 95) / scan_p95_us, 3),
    }


def _allowed(data: Dataset, part: float, kind: str) -> Rows:
    count = max(int(part * len(data.vectors)), K)
    if kind == "random":
        chosen = np.random.default_rng(1).choice(len(data.vectors), count, replace=False)
        return np.sort(chosen)
    order = np.argsort(data.vectors @ data.queries[0], kind="stable")
    return np.sort(order[-count:] if kind == "correlated" else order[:count])

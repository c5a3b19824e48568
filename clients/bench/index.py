"""Measure the index on this machine: recall, latency, filters, turnover, memory, start; JSON out.

    make bench-index ARGS="--rows 1000000 --phases speed,filters,start,ingest,rebuild,lost"

Latencies compare as ratios within the run: what is compared is measured in turns, in short blocks.
Progress is told on standard error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from index_data import Dataset, Rows, Vectors, exact, from_file, recall, synthetic
from index_peers import build_peers
from index_subject import Subject
from index_timing import K, one, quantiles, timed
from index_under_load import under_ingest, under_rebuild

from vecserve_server.encoding.measurements import processor
from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.index.segments.segment_files import VECTORS
from vecserve_server.index.vectors.planning import Costs, Thresholds, measured_thresholds

ROUND_QUERIES = 100
LOST_QUERIES, FILTER_QUERIES = 100, 400
SWITCH_INTERVAL_S = 0.0005
PHASES = ("speed", "filters", "start", "ingest", "rebuild", "lost", "turnover")
PARTS = (0.5, 0.1, 0.01, 0.001)


def main() -> None:
    """Run the phases that are asked for and print the report."""
    wanted = _arguments()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    data = (
        from_file(wanted.vectors, wanted.queries)
        if wanted.vectors
        else synthetic(wanted.rows, wanted.dim, wanted.queries)
    )
    phases = wanted.phases.split(",")
    costs = MeasuredCosts().measure(data.vectors.shape[1])
    report: dict[str, Any] = {
        "processor": processor(),
        "data": data.name,
        "k": K,
        "measured_costs": asdict(costs),
        "measured_thresholds": asdict(measured_thresholds(costs)),
    }
    with _folder(wanted) as folder:
        dim = data.vectors.shape[1]
        subject = Subject.open(folder, dim, _options(wanted))
        report["build"] = _told("build", _build(subject, data))
        truth = exact(data.vectors, data.queries, K)
        if "speed" in phases:
            report["speed"] = _told("speed", _speed(subject, data, truth, wanted))
        if "filters" in phases:
            report["filters"] = _told("filters", _filters(subject, data))
        if "start" in phases:
            subject.close()
            report["start"] = _told("start", _opened(folder, data.queries))
            subject = Subject.open(folder, dim, _options(wanted), subject.number_of)
        if "ingest" in phases:
            blocks, rate = wanted.blocks, wanted.rows_per_s
            found = under_ingest(subject, data.queries, blocks=blocks, rows_per_s=rate)
            report["ingest"] = _told("ingest", found)
        if "rebuild" in phases:
            found = under_rebuild(subject, data.queries, seconds=wanted.rebuild_seconds)
            report["rebuild"] = _told("rebuild", found)
        subject.close()
        if "lost" in phases:
            _damage(folder)
            report["lost"] = _told("lost", _opened(folder, data.queries[:LOST_QUERIES]))
    if "turnover" in phases:
        with tempfile.TemporaryDirectory() as folder:
            report["turnover"] = _told("turnover", _turnover(Path(folder), wanted))
    print(json.dumps(report, indent=1))


@contextmanager
def _folder(wanted: argparse.Namespace) -> Iterator[Path]:
    if wanted.keep:
        wanted.keep.mkdir(parents=True, exist_ok=True)
        yield wanted.keep
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def _told(phase: str, found: dict[str, Any]) -> dict[str, Any]:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {phase} {json.dumps(found)}\n")
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--vectors", type=Path, help="embeddings as .npy instead of synthetic ones")
    parser.add_argument("--blocks", type=int, default=6, help="of 3 s while rows arrive")
    parser.add_argument("--rebuild-seconds", type=float, default=240.0, help="at most")
    parser.add_argument("--rounds", type=int, default=10, help="turns of what is compared")
    parser.add_argument("--rows-per-s", type=int, default=1000, help="arriving under load")
    parser.add_argument("--turnover-rows", type=int, default=20_000)
    parser.add_argument("--first-rows", type=int, help="fewer have no graph; else as measured")
    parser.add_argument("--delta-rows", type=int, help="so many more are sealed; as measured")
    parser.add_argument("--peers", type=int, default=1, help="0: vecserve alone")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--keep", type=Path, help="keep the rows there, and use those of before")
    return parser.parse_args()


def _options(wanted: argparse.Namespace) -> IndexOptions:
    def thresholds(costs: Costs) -> Thresholds:
        measured = measured_thresholds(costs)
        return replace(
            measured,
            first_rows=wanted.first_rows or measured.first_rows,
            delta_rows=wanted.delta_rows or measured.delta_rows,
        )

    return IndexOptions(thresholds=thresholds)


def _build(subject: Subject, data: Dataset) -> dict[str, Any]:
    began_s = time.perf_counter()
    subject.number_of.update(
        {seq: number for number, seq in enumerate(subject.log.seqs().tolist())}
    )
    if not subject.number_of:
        subject.load(data.vectors)
    loaded_s = time.perf_counter() - began_s
    subject.settle()
    settled_s = time.perf_counter() - began_s
    stats = subject.index.stats
    return {
        "rows": len(subject.index),
        "load_s": round(loaded_s, 2),
        "settled_s": round(settled_s, 2),
        "segments": stats.segments,
        "delta_rows": stats.delta_rows,
        "clip_rate": stats.clip_rate,
        "expansion": subject.index.plan(K).expansion,
        "memory_bytes_per_row": round(subject.index.memory_bytes / len(subject.index), 1),
    }


def _speed(
    subject: Subject, data: Dataset, truth: Sequence[Rows], wanted: argparse.Namespace
) -> dict[str, Any]:
    """Everybody in turns, one query at a time, one thread."""
    searches: dict[str, Callable[[Vectors], Rows]] = {
        "vecserve": lambda query: subject.rows_of(one(subject, query)),
        "vecserve-exact": lambda query: subject.rows_of(one(subject, query, exact=True)),
    }
    facts: dict[str, dict[str, Any]] = {name: {} for name in searches}
    for name, search in searches.items():
        facts[name]["recall"] = round(recall([search(q) for q in data.queries], truth), 4)
    peers = build_peers(data.vectors) if wanted.peers else []
    _told("peers", {peer.name: round(peer.build_s, 1) for peer in peers})
    for peer in peers:
        half = len(data.queries) // 2
        peer.tune(data.queries[:half], truth[:half], K, facts["vecserve"]["recall"] - 0.002)
        searches[peer.name] = lambda query, peer=peer: peer.search(query, K)  # type: ignore[misc]
        facts[peer.name] = {
            "recall": round(recall([peer.search(q, K) for q in data.queries], truth), 4),
            "breadth": peer.breadth,
            "build_s": round(peer.build_s, 2),
        }
    timed = {
        "vecserve": lambda query: one(subject, query),
        "vecserve-exact": lambda query: one(subject, query, exact=True),
        **{name: search for name, search in searches.items() if not name.startswith("vecserve")},
    }
    times = _in_turns(timed, data.queries, wanted.rounds)
    for name, taken_us in times.items():
        facts[name] |= quantiles(taken_us)
        facts[name]["p50_ratio"] = round(
            float(np.median(taken_us)) / float(np.median(times["vecserve"])), 3
        )
    facts["vecserve-batch-32"] = {
        "us_per_query": round(_batch_us(subject, data.queries[:320], 32), 1)
    }
    return facts


def _in_turns(
    searches: dict[str, Callable[[Vectors], Any]], queries: Vectors, rounds: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in searches}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        chosen = queries[
            random.choice(len(queries), min(ROUND_QUERIES, len(queries)), replace=False)
        ]
        for name in random.permutation(list(searches)).tolist():
            times[name] += timed(searches[name], chosen)
    return times


def _batch_us(subject: Subject, queries: Vectors, size: int) -> float:
    times = []
    for start in range(0, len(queries), size):
        began_s = time.perf_counter()
        subject.index.search(queries[start : start + size], K)
        times.append((time.perf_counter() - began_s) * 1e6 / size)
    return statistics.median(times)


def _filters(subject: Subject, data: Dataset) -> dict[str, Any]:
    queries = data.queries[:FILTER_QUERIES]
    numbers = np.array(sorted(subject.number_of.items(), key=lambda pair: pair[1]), np.int64)
    seq_of = numbers[:, 0]
    scan_us = timed(lambda query: one(subject, query, exact=True), queries)
    report: dict[str, Any] = {"unfiltered_scan": quantiles(scan_us)}
    for part in PARTS:
        for kind in ("random", "correlated", "anticorrelated"):
            rows = _allowed(data, part, kind)
            allowed = np.sort(seq_of[rows])
            truth = exact(data.vectors, queries, K, rows)
            found, times = [], []
            for query in queries:
                began_s = time.perf_counter()
                [hits] = subject.index.search(query[np.newaxis], K, allowed=allowed)
                times.append((time.perf_counter() - began_s) * 1e6)
                found.append(subject.rows_of(hits.seqs))
            report[f"{part:g} {kind}"] = quantiles(times) | {
                "method": subject.index.plan(K, allowed_rows=len(allowed)).method,
                "recall": round(recall(found, truth), 4),
                "fewest_hits": min(len(rows) for rows in found),
                "p95_of_scan": round(
                    float(np.percentile(times, 95) / np.percentile(scan_us, 95)), 3
                ),
            }
    return report


def _allowed(data: Dataset, part: float, kind: str) -> Rows:
    """Rows that a filter lets through: any, or those of the clusters near or far of the queries."""
    count = max(int(part * len(data.vectors)), K)
    if kind == "random":
        chosen = np.random.default_rng(1).choice(len(data.vectors), count, replace=False)
        return np.sort(chosen)
    order = np.argsort(data.vectors @ data.queries[0], kind="stable")
    return np.sort(order[-count:] if kind == "correlated" else order[:count])


def _damage(folder: Path) -> None:
    """Flip a bit in each segment, so that none can be used."""
    for path in folder.rglob(VECTORS):
        with path.open("r+b") as file:
            file.seek(1000)
            byte = file.read(1)[0]
            file.seek(1000)
            file.write(bytes([byte ^ 1]))


def _opened(folder: Path, queries: Vectors) -> Any:
    """Open the index in a process of its own, search, and report what that took."""
    script = Path(__file__).with_name("index_memory.py")
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, queries)
        arguments = [sys.executable, str(script), str(folder), str(queries.shape[1]), file.name]
        done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return json.loads(done.stdout)


def _turnover(folder: Path, wanted: argparse.Namespace) -> dict[str, Any]:
    """Replace every row three times, by upserts and by deletes; then look for each."""
    rows, dim = wanted.turnover_rows, wanted.dim
    subject = Subject.open(folder, dim, _options(wanted))
    random = np.random.default_rng(3)
    vectors = synthetic(rows, dim, 2, seed=10).vectors
    subject.load(vectors)
    for turn in range(3):
        vectors = synthetic(rows, dim, 200, seed=11 + turn).vectors
        for some in np.array_split(random.permutation(rows), max(rows // 500, 1)):
            if turn == 1:
                subject.delete(some.tolist())
            subject.write(some.tolist(), vectors[some])
    subject.settle()
    lost = dead = 0
    for start in range(0, rows, 64):
        for number, hits in enumerate(subject.index.search(vectors[start : start + 64], K)):
            found = subject.rows_of(hits.seqs)
            lost += start + number not in found
    live = subject.log.by_seq([int(s) for s in subject.number_of])
    queries = synthetic(rows, dim, 200, seed=13).queries
    answers = subject.index.search(queries, K)
    dead = sum(int(seq) not in live for hits in answers for seq in hits.seqs)
    report = {
        "rows": rows,
        "rows_that_do_not_find_themselves": lost,
        "dead_rows_found": dead,
        "recall": round(
            recall([subject.rows_of(h.seqs) for h in answers], exact(vectors, queries, K)), 4
        ),
        "builds": subject.index.stats.builds,
        "segments": subject.index.stats.segments,
    }
    subject.close()
    return report


if __name__ == "__main__":
    main()

"""Measure the index on this machine: recall, latency, filters, turnover, memory, start; JSON out.

    make bench-index ARGS="--rows 100000 --phases speed,ingest,filters,turnover,start"

Latencies compare as ratios within the run: what is compared is measured in turns, in short blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
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

from vecserve_server.encoding.measurements import processor
from vecserve_server.index.measuring import MeasuredCosts
from vecserve_server.index.planning import Costs, Thresholds, measured_thresholds
from vecserve_server.index.segment_files import VECTORS
from vecserve_server.index.segmented_index import IndexOptions

K = 10
BLOCK = 50
SWITCH_INTERVAL_S = 0.0005
PHASES = ("speed", "ingest", "filters", "start", "turnover")
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
    with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
        subject = Subject.open(Path(folder), data.vectors.shape[1], _options(wanted))
        report["build"] = _build(subject, data)
        truth = exact(data.vectors, data.queries, K)
        if "speed" in phases:
            report["speed"] = _speed(subject, data, truth, wanted)
        if "filters" in phases:
            report["filters"] = _filters(subject, data)
        if "start" in phases:
            subject.close()
            report["start"] = _start(Path(folder), data)
            subject = Subject.open(Path(folder), data.vectors.shape[1], _options(wanted))
        if "ingest" in phases:
            report["ingest"] = _ingest(subject, data, wanted)
        subject.close()
    if "turnover" in phases:
        with tempfile.TemporaryDirectory(dir=wanted.folder) as folder:
            report["turnover"] = _turnover(Path(folder), wanted)
    print(json.dumps(report, indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--vectors", type=Path, help="embeddings as .npy instead of synthetic ones")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each state under load")
    parser.add_argument("--rounds", type=int, default=10, help="turns of what is compared")
    parser.add_argument("--rows-per-s", type=int, default=1000, help="arriving under load")
    parser.add_argument("--turnover-rows", type=int, default=20_000)
    parser.add_argument("--first-rows", type=int, help="fewer have no graph; else as measured")
    parser.add_argument("--delta-rows", type=int, help="so many more are sealed; as measured")
    parser.add_argument("--peers", type=int, default=1, help="0: vecserve alone")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--folder", type=Path, help="where to keep the rows while it runs")
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
    subject.load(data.vectors)
    loaded_s = time.perf_counter() - began_s
    subject.settle()
    settled_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    subject.index.compact()
    stats = subject.index.stats
    return {
        "rows": len(subject.index),
        "load_s": round(loaded_s, 2),
        "settled_s": round(settled_s, 2),
        "one_segment_s": round(time.perf_counter() - began_s, 2),
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
        "vecserve": lambda query: subject.rows_of(_one(subject, query)),
        "vecserve-exact": lambda query: subject.rows_of(_one(subject, query, exact=True)),
    }
    facts: dict[str, dict[str, Any]] = {name: {} for name in searches}
    for name, search in searches.items():
        facts[name]["recall"] = round(recall([search(q) for q in data.queries], truth), 4)
    for peer in build_peers(data.vectors) if wanted.peers else ():
        half = len(data.queries) // 2
        peer.tune(data.queries[:half], truth[:half], K, facts["vecserve"]["recall"] - 0.002)
        searches[peer.name] = lambda query, peer=peer: peer.search(query, K)  # type: ignore[misc]
        facts[peer.name] = {
            "recall": round(recall([peer.search(q, K) for q in data.queries], truth), 4),
            "breadth": peer.breadth,
            "build_s": round(peer.build_s, 2),
        }
    timed = {
        "vecserve": lambda query: _one(subject, query),
        "vecserve-exact": lambda query: _one(subject, query, exact=True),
        **{name: search for name, search in searches.items() if not name.startswith("vecserve")},
    }
    times = _in_turns(timed, data.queries, wanted.rounds)
    for name, taken_us in times.items():
        facts[name] |= _quantiles(taken_us)
        facts[name]["p50_ratio"] = round(
            float(np.median(taken_us)) / float(np.median(times["vecserve"])), 3
        )
    facts["vecserve-batch-32"] = {
        "us_per_query": round(_batch_us(subject, data.queries[:320], 32), 1)
    }
    return facts


def _one(subject: Subject, query: Vectors, *, exact: bool = False) -> Rows:
    return subject.index.search(query[np.newaxis], K, exact=exact)[0].seqs


def _in_turns(
    searches: dict[str, Callable[[Vectors], Any]], queries: Vectors, rounds: int
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in searches}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        chosen = queries[random.choice(len(queries), min(BLOCK * 2, len(queries)), replace=False)]
        for name in random.permutation(list(searches)).tolist():
            times[name] += _timed(searches[name], chosen)
    return times


def _timed(search: Callable[[Vectors], Any], queries: Vectors) -> list[float]:
    taken_us = []
    for query in queries:
        began_s = time.perf_counter()
        search(query)
        taken_us.append((time.perf_counter() - began_s) * 1e6)
    return taken_us


def _batch_us(subject: Subject, queries: Vectors, size: int) -> float:
    times = []
    for start in range(0, len(queries), size):
        began_s = time.perf_counter()
        subject.index.search(queries[start : start + size], K)
        times.append((time.perf_counter() - began_s) * 1e6 / size)
    return statistics.median(times)


def _ingest(subject: Subject, data: Dataset, wanted: argparse.Namespace) -> dict[str, Any]:
    """Idle, while rows arrive, and while everything is rebuilt: in turns, as ratios."""
    more = synthetic(
        int(wanted.rows_per_s * wanted.seconds * 1.2) + 64, data.vectors.shape[1], 2, seed=7
    ).vectors
    states: dict[str, list[list[float]]] = {"idle": [], "ingest": [], "rebuild": []}
    rounds = max(2, min(wanted.rounds, 4))
    share = len(more) // rounds
    stats: list[dict[str, int]] = []
    for number in range(rounds):
        states["idle"].append(_search_for(subject, data.queries, wanted.seconds / rounds))
        part = more[number * share : (number + 1) * share]
        with subject.arriving(part, wanted.rows_per_s) as written:
            states["ingest"].append(_search_for(subject, data.queries, wanted.seconds / rounds))
        now = subject.index.stats
        stats.append(
            {"written": written[0], "delta_rows": now.delta_rows, "segments": now.segments}
        )
        subject.settle()
        with _rebuilding(subject) as busy:
            states["rebuild"].append(
                _search_for(subject, data.queries, wanted.seconds / rounds, busy)
            )
    idle_p95 = [float(np.percentile(times, 95)) for times in states["idle"]]
    report: dict[str, Any] = {"after_each_round": stats}
    for name, blocks in states.items():
        ratios = [
            float(np.percentile(times, 95)) / idle
            for times, idle in zip(blocks, idle_p95, strict=True)
        ]
        report[name] = _quantiles([t for times in blocks for t in times]) | {
            "p95_ratio_median": round(statistics.median(ratios), 3)
        }
    return report


def _search_for(
    subject: Subject, queries: Vectors, seconds: float, busy: threading.Event | None = None
) -> list[float]:
    times: list[float] = []
    deadline_s = time.perf_counter() + seconds
    place = 0
    while time.perf_counter() < deadline_s and (busy is None or busy.is_set()):
        times += _timed(lambda query: _one(subject, query), queries[place : place + BLOCK])
        place = (place + BLOCK) % max(len(queries) - BLOCK + 1, 1)
    return times


@contextmanager
def _rebuilding(subject: Subject) -> Iterator[threading.Event]:
    busy = threading.Event()
    busy.set()

    def compact() -> None:
        try:
            subject.index.compact()
        finally:
            busy.clear()

    worker = threading.Thread(target=compact, name="rebuild")
    worker.start()
    yield busy
    worker.join()


def _filters(subject: Subject, data: Dataset) -> dict[str, Any]:
    queries = data.queries[:200]
    numbers = np.array(sorted(subject.number_of.items(), key=lambda pair: pair[1]), np.int64)
    seq_of = numbers[:, 0]
    scan_us = _timed(lambda query: _one(subject, query, exact=True), queries)
    report: dict[str, Any] = {"unfiltered_scan": _quantiles(scan_us)}
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
            report[f"{part:g} {kind}"] = _quantiles(times) | {
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


def _start(folder: Path, data: Dataset) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, data.queries)
        whole = _opened(folder, data, file.name)
        for path in folder.rglob(VECTORS):
            with path.open("r+b") as damaged:
                damaged.seek(1000)
                byte = damaged.read(1)[0]
                damaged.seek(1000)
                damaged.write(bytes([byte ^ 1]))
        lost = _opened(folder, data, file.name)
    return {"whole": whole, "lost_segment": lost}


def _opened(folder: Path, data: Dataset, queries: str) -> Any:
    script = Path(__file__).with_name("index_memory.py")
    arguments = [sys.executable, str(script), str(folder), str(data.vectors.shape[1]), queries]
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


def _quantiles(times_us: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times_us, [50, 95, 99])
    return {"p50_us": round(p50, 1), "p95_us": round(p95, 1), "p99_us": round(p99, 1)}


if __name__ == "__main__":
    main()

"""The index on this machine: recall, latency, filters, turnover, memory, start.

Latencies compare as ratios within the run: what is compared is measured in turns, in short blocks.
Progress is told on standard error.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from vecserve_server.index.building.measuring import MeasuredCosts
from vecserve_server.index.segments.segment_files import VECTORS
from vecserve_server.index.vectors.planning import measured_thresholds
from vecserve_server.measuring.index.data import Dataset, exact, from_file, synthetic
from vecserve_server.measuring.index.filters import measure_filters
from vecserve_server.measuring.index.memory import opened_in_own_process
from vecserve_server.measuring.index.options import IndexBenchmark
from vecserve_server.measuring.index.speed import measure_speed
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import K
from vecserve_server.measuring.index.turnover import measure_turnover
from vecserve_server.measuring.index.under_load import under_ingest, under_rebuild
from vecserve_server.measuring.machine import processor
from vecserve_server.measuring.reports import Report, tell

_LOST_QUERIES: Final = 100
_SWITCH_INTERVAL_S: Final = 0.0005
"""As the server has it."""
_DAMAGED_BYTE: Final = 1000


def measure_index(options: IndexBenchmark) -> Report:
    """Run the phases that are asked for; return what each found, by its name."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    data = (
        from_file(options.vectors, options.queries)
        if options.vectors
        else synthetic(options.rows, options.dim, options.queries)
    )
    costs = MeasuredCosts().measure(data.vectors.shape[1])
    report: Report = {
        "processor": processor(),
        "data": data.name,
        "k": K,
        "measured_costs": asdict(costs),
        "measured_thresholds": asdict(measured_thresholds(costs)),
    }
    with _folder(options.keep) as folder:
        report |= _Phases(options, data, folder).run()
    if "turnover" in options.phases:
        with tempfile.TemporaryDirectory() as name:
            found = measure_turnover(
                Path(name), options.turnover_rows, options.dim, options.index_options()
            )
            report["turnover"] = tell("turnover", found)
    return report


class _Phases:
    """What is measured of one set of rows, in the order of `PHASES`."""

    def __init__(self, options: IndexBenchmark, data: Dataset, folder: Path) -> None:
        self._options = options
        self._data = data
        self._folder = folder
        self._subject = self._open({})

    def run(self) -> Report:
        """Build, then measure; the rows cannot be used afterwards."""
        report = {"build": tell("build", _build(self._subject, self._data))}
        measure: dict[str, Callable[[], Report]] = {
            "speed": self._speed,
            "filters": lambda: measure_filters(self._subject, self._data),
            "start": self._start,
            "ingest": self._ingest,
            "rebuild": self._rebuild,
        }
        for phase, found in measure.items():
            if phase in self._options.phases:
                report[phase] = tell(phase, found())
        self._subject.close()
        if "lost" in self._options.phases:
            report["lost"] = tell("lost", self._lost())
        return report

    def _open(self, number_of: dict[int, int]) -> Subject:
        dim = self._data.vectors.shape[1]
        return Subject.open(self._folder, dim, self._options.index_options(), number_of)

    def _speed(self) -> Report:
        truth = exact(self._data.vectors, self._data.queries, K)
        peers, rounds = self._options.peers, self._options.rounds
        return measure_speed(self._subject, self._data, truth, peers=peers, rounds=rounds)

    def _start(self) -> Report:
        """Open the index in a process of its own."""
        self._subject.close()
        found = opened_in_own_process(self._folder, self._data.queries)
        self._subject = self._open(self._subject.number_of)
        return found

    def _ingest(self) -> Report:
        blocks, rows_per_s = self._options.blocks, self._options.rows_per_s
        return under_ingest(self._subject, self._data.queries, blocks=blocks, rows_per_s=rows_per_s)

    def _rebuild(self) -> Report:
        seconds = self._options.rebuild_seconds
        return under_rebuild(self._subject, self._data.queries, seconds=seconds)

    def _lost(self) -> Report:
        """Flip a bit in each segment, so that none can be used, and open the index."""
        for path in self._folder.rglob(VECTORS):
            with path.open("r+b") as file:
                file.seek(_DAMAGED_BYTE)
                [byte] = file.read(1)
                file.seek(_DAMAGED_BYTE)
                file.write(bytes([byte ^ 1]))
        return opened_in_own_process(self._folder, self._data.queries[:_LOST_QUERIES])


def _build(subject: Subject, data: Dataset) -> Report:
    began_s = time.perf_counter()
    subject.find_rows()
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


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)

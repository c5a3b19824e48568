"""Measure the index on this machine: recall, latency, filters, turnover, memory, start; JSON out.

make bench-index ARGS="--rows 1000000 --phases speed,filters,start,ingest,rebuild,lost"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vecserve_server.measuring.index.options import PHASES, IndexBenchmark
from vecserve_server.measuring.index.phases import measure_index
from vecserve_server.measuring.reports import print_report


def main() -> None:
    """Run the phases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rows", type=int, default=100_000)
    add("--dim", type=int, default=384)
    add("--queries", type=int, default=1000)
    add("--vectors", type=Path, help="embeddings as .npy instead of synthetic ones")
    add("--blocks", type=int, default=6, help="of 3 s while rows arrive")
    add("--rebuild-seconds", type=float, default=240.0, help="at most")
    add("--rounds", type=int, default=10, help="turns of what is compared")
    add("--rows-per-s", type=int, default=1000, help="arriving under load")
    add("--turnover-rows", type=int, default=20_000)
    add("--first-rows", type=int, help="fewer have no graph; else as measured")
    add("--delta-rows", type=int, help="so many more are sealed; as measured")
    add("--peers", type=int, default=1, help="0: vecserve alone")
    add("--phases", type=lambda names: names.split(","), default=PHASES)
    add("--keep", type=Path, help="keep the rows there, and use those of before")
    print_report(measure_index(IndexBenchmark(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

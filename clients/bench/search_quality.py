"""Measure how well and how fast dense, lexical and hybrid search find products; JSON out.

Exits with 1 if hybrid search is not as good as it should be, or the index loses too much.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vecserve_server.measuring.datasets.chorus import RATINGS
from vecserve_server.measuring.quality.searching import (
    SearchQualityOptions,
    measure_search_quality,
)
from vecserve_server.measuring.reports import print_report


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the Chorus products")
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--rounds", type=int, default=5, help="of all queries, for the latencies")
    options = SearchQualityOptions(**vars(parser.parse_args()))
    if not (options.data / RATINGS).is_file():
        parser.error(f"--data: {options.data} has no {RATINGS}")
    report = measure_search_quality(options)
    print_report(report)
    return 0 if report.is_good_enough else 1


if __name__ == "__main__":
    sys.exit(main())

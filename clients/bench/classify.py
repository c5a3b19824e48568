"""Measure Classify: accuracy, calibration, and what a threshold keeps out; JSON out.

Needs the files train.csv and test.csv of banking77 (columns text and category).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vecserve_server.measuring.datasets.banking77 import banking77_folder
from vecserve_server.measuring.datasets.test_data import VARIABLE
from vecserve_server.measuring.quality.classifying import ClassifyOptions, measure_classify
from vecserve_server.measuring.reports import print_report


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--data", type=Path, help=f"default: ${VARIABLE}/text/banking77")
    parser.add_argument("-k", type=int, default=10)
    wanted = parser.parse_args()
    data = wanted.data or banking77_folder()
    if data is None:
        parser.error(f"name the folder of banking77 with --data or ${VARIABLE}")
    options = ClassifyOptions(data=data, repository=wanted.repository, k=wanted.k)
    print_report(measure_classify(options))


if __name__ == "__main__":
    main()

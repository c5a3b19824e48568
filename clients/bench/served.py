"""Measure the served path against the bare encoder, on this machine, in one run; JSON out."""

from __future__ import annotations

import argparse

from vecserve_server.measuring.reports import print_report
from vecserve_server.measuring.served import ServedOptions, measure_served


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of encoder and server in turns")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    print_report(measure_served(ServedOptions(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

"""Measure what arrives when it likes: an idle server, 70 % of its capacity, three times that.

make bench-load                                     # some two minutes
make bench-load ARGS="--seconds 30 --deadline-ms 500 --traffic short"
"""

from __future__ import annotations

import argparse

from vecserve_server.measuring.load.open_loop import LoadOptions, measure_load
from vecserve_server.measuring.reports import print_report


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", default="model_repository")
    parser.add_argument("--traffic", choices=["mix", "short"], default="mix")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--deadline-ms", type=float, default=500.0, help="of calls in overload")
    print_report(measure_load(LoadOptions(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

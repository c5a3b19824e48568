"""Measure vecserve against NVIDIA's Triton on this machine, in one run; JSON out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vecserve_server.measuring.encoder.baseline import DEFAULT_WHEEL
from vecserve_server.measuring.reports import print_report
from vecserve_server.measuring.triton import comparison
from vecserve_server.measuring.triton.tools import ToolsMissing


def main() -> int:
    """Run the benchmark; return the exit code."""
    defaults, every = comparison.TritonOptions(), comparison.every_form()
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--repository", type=Path, default=defaults.repository)
    add("--wheel", type=Path, default=DEFAULT_WHEEL, help="of the checkpoint")
    add("--seconds", type=float, default=defaults.seconds, help="length of each measurement")
    add("--rounds", type=int, default=defaults.rounds)
    add("--clients", type=int, nargs="+", default=defaults.clients)
    add("--traffic", nargs="+", choices=comparison.TRAFFIC, default=defaults.traffic)
    add("--forms", nargs="+", choices=every, default=defaults.forms, help="of Triton")
    add("--no-plain-onnx", dest="plain_onnx", action="store_false", help="leave that file out")
    add("--tune", dest="forms", action="store_const", const=every, help="measure every form")
    try:
        print_report(
            comparison.measure_triton(comparison.TritonOptions(**vars(parser.parse_args())))
        )
    except ToolsMissing as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

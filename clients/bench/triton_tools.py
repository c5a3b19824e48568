"""Unpack perf_analyzer and NVIDIA's tritonserver from their wheels into one folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from vecserve_server.measuring.triton.tools import DEFAULT_FOLDER, unpack


def main() -> None:
    """Unpack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    options = parser.parse_args()
    unpack(options.wheels, options.folder)


if __name__ == "__main__":
    main()

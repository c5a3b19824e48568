"""Measure lexical search over many rows, and what the bound on a query's work buys; JSON out.

make bench-words ARGS="--rows 1000000"
"""

from __future__ import annotations

import argparse

from vecserve_server.measuring.index.words import WordsOptions, measure_words
from vecserve_server.measuring.reports import print_report


def main() -> None:
    """Fill a row log and ask it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unbounded", action="store_true", help="compare every row with a word")
    print_report(measure_words(WordsOptions(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()

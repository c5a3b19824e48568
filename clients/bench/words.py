"""Measure lexical search over many rows, and what the bound on a query's work buys; JSON out.

    make bench-words ARGS="--rows 1000000"

The texts have 20 words each, with the frequencies of a language (Zipf's law). The bounds take
turns, and every query is asked warm. `words_left_out` counts the frequent words that a bound kept
from being compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from index_timing import quantiles
from numpy.typing import NDArray

from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis
from vecserve_server.domain.rows import NewRow
from vecserve_server.encoding.measurements import processor
from vecserve_server.storage.files.sqlite_file import open_read_only
from vecserve_server.storage.payloads.declared_fields import Declared
from vecserve_server.storage.payloads.word_index import SCORED_ROWS, WordIndex
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog

K = 10
WORDS_PER_ROW = 20
VOCABULARY = 200_000
ZIPF_EXPONENT = 1.07
PAGE_ROWS = 2000
BOUNDS = (5000, SCORED_ROWS, 50_000, 200_000)
FIELD = FieldSpec(name="text", type=FieldType.TEXT)


def main() -> None:
    """Fill a row log and ask it; print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unbounded", action="store_true", help="compare every row with a word")
    wanted = parser.parse_args()
    random = np.random.default_rng(0)
    bounds = [*BOUNDS, *([wanted.rows + 1] if wanted.unbounded else [])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.sqlite"
        log = RowLog.open(path, dim=1, model_digest="0f", fields=[FIELD])
        load_s = fill(log, wanted.rows, random)
        log.close()
        asked = queries(wanted.queries, random)
        report = {
            "processor": processor(),
            "rows": wanted.rows,
            "load_s": round(load_s, 1),
            "bounds": measure(path, asked, bounds, rows=wanted.rows, rounds=wanted.rounds),
        }
    print(json.dumps(report, indent=1))


def fill(log: RowLog, rows: int, random: np.random.Generator) -> float:
    """Write the rows; return how many seconds that took."""
    began_s = time.perf_counter()
    vector = np.ones(1, np.float32)
    for start in range(0, rows, PAGE_ROWS):
        texts = [text_of(some) for some in drawn(min(PAGE_ROWS, rows - start), random)]
        log.commit(
            [
                Upsert(NewRow(id=str(start + n), vector=vector, payload_json=payload(text)))
                for n, text in enumerate(texts)
            ]
        )
        if start % 100_000 == 0:
            sys.stderr.write(f"{time.strftime('%H:%M:%S')} {start} rows\n")
    return time.perf_counter() - began_s


def drawn(rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the words of so many rows, by their rank, int64 [rows, WORDS_PER_ROW]."""
    return random.zipf(ZIPF_EXPONENT, (rows, WORDS_PER_ROW)) % VOCABULARY


def text_of(ranks: Sequence[int] | NDArray[np.int64]) -> str:
    """Spell words."""
    return " ".join(f"w{rank}" for rank in ranks)


def payload(text: str) -> str:
    """Write the payload of a row."""
    return json.dumps({"text": text})


def queries(count: int, random: np.random.Generator) -> list[str]:
    """Draw queries of 1 to 6 words, with the same frequencies."""
    return [text_of(some[: random.integers(1, 7)]) for some in drawn(count, random)]


def measure(
    path: Path, asked: Sequence[str], bounds: Sequence[int], *, rows: int, rounds: int
) -> dict[str, Any]:
    """Ask every query under each bound, in turns."""
    declared = Declared(indexed={}, texts=(), analysis=TextAnalysis())
    indexes = {bound: WordIndex(declared, scored_rows=bound) for bound in bounds}
    times: dict[int, list[float]] = {bound: [] for bound in bounds}
    left_out = dict.fromkeys(bounds, 0)
    with closing(open_read_only(path)) as reader:
        for warm in range(rounds + 1):
            for bound, index in indexes.items():
                for text in asked:
                    began_s = time.perf_counter()
                    found = index.search(reader, text, K, row_count=rows, where=None)
                    if warm:
                        times[bound].append((time.perf_counter() - began_s) * 1e6)
                    else:
                        left_out[bound] += len(found.dropped_terms)
    return {
        str(bound): quantiles(times[bound]) | {"words_left_out": left_out[bound]}
        for bound in bounds
    }


if __name__ == "__main__":
    main()

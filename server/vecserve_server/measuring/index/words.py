"""Lexical search over many rows, and what the bound on a query's work buys.

The texts have 20 words each, with the frequencies of a language (Zipf's law). The bounds take
turns, and every query is asked warm. `words_left_out` counts the frequent words that a bound kept
from being compared.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.collections import FieldSpec, FieldType, TextAnalysis
from vecserve_server.domain.rows import NewRow
from vecserve_server.measuring.index.timing import K, quantiles
from vecserve_server.measuring.machine import processor
from vecserve_server.measuring.reports import Report, say
from vecserve_server.storage.files.sqlite_file import open_read_only
from vecserve_server.storage.payloads.declared_fields import Declared
from vecserve_server.storage.payloads.word_index import SCORED_ROWS, WordIndex
from vecserve_server.storage.rows.operations import Upsert
from vecserve_server.storage.rows.row_log import RowLog

_WORDS_PER_ROW: Final = 20
_VOCABULARY: Final = 200_000
_ZIPF_EXPONENT: Final = 1.07
_PAGE_ROWS: Final = 2000
_TOLD_ROWS: Final = 100_000
_BOUNDS: Final = (5000, SCORED_ROWS, 50_000, 200_000)
_FIELD: Final = FieldSpec(name="text", type=FieldType.TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsOptions:
    """What is searched, and how often."""

    rows: int = 100_000
    queries: int = 80
    rounds: int = 5
    unbounded: bool = False
    """Whether every row with a word is compared, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordsReport:
    """Latencies by the bound on the rows that a word may bring."""

    processor: str
    rows: int
    load_s: float
    bounds: Mapping[str, Report]


def measure_words(options: WordsOptions) -> WordsReport:
    """Fill a row log and ask it."""
    random = np.random.default_rng(0)
    bounds = [*_BOUNDS, *([options.rows + 1] if options.unbounded else [])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.sqlite"
        with closing(RowLog.open(path, dim=1, model_digest="0f", fields=[_FIELD])) as log:
            load_s = fill(log, options.rows, random)
        asked = queries(options.queries, random)
        return WordsReport(
            processor=processor(),
            rows=options.rows,
            load_s=round(load_s, 1),
            bounds=measure(path, asked, bounds, rows=options.rows, rounds=options.rounds),
        )


def fill(log: RowLog, rows: int, random: np.random.Generator) -> float:
    """Write the rows; return how many seconds that took."""
    began_s = time.perf_counter()
    vector = np.ones(1, np.float32)
    for start in range(0, rows, _PAGE_ROWS):
        texts = [text_of(some) for some in drawn(min(_PAGE_ROWS, rows - start), random)]
        log.commit(
            [
                Upsert(NewRow(id=str(start + n), vector=vector, payload_json=payload(text)))
                for n, text in enumerate(texts)
            ]
        )
        if start % _TOLD_ROWS == 0:
            say(f"{start} rows")
    return time.perf_counter() - began_s


def drawn(rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Draw the words of so many rows, by their rank, int64 [rows, _WORDS_PER_ROW]."""
    return random.zipf(_ZIPF_EXPONENT, (rows, _WORDS_PER_ROW)) % _VOCABULARY


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
) -> dict[str, Report]:
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

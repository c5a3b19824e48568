"""Every row is replaced three times, by upserts and by deletes; then each is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from vecserve_server.index.segmented_index import IndexOptions
from vecserve_server.measuring.index.data import Vectors, exact, recall, synthetic
from vecserve_server.measuring.index.subject import Subject
from vecserve_server.measuring.index.timing import K
from vecserve_server.measuring.reports import Report

_TURNS: Final = 3
_DELETING_TURN: Final = 1
_PAGE_ROWS: Final = 500
_QUERIES: Final = 200
_SEARCHED_AT_A_TIME: Final = 64


def measure_turnover(folder: Path, rows: int, dim: int, options: IndexOptions) -> Report:
    """Replace the rows in a new folder; return what is lost, and what should be."""
    subject = Subject.open(folder, dim, options)
    subject.load(synthetic(rows, dim, 2, seed=10).vectors)
    vectors = _replace_all(subject, rows, dim)
    subject.settle()
    queries = synthetic(rows, dim, _QUERIES, seed=13).queries
    answers = subject.search(queries, K)
    live = subject.log.by_seq(list(subject.number_of))
    truth = exact(vectors, queries, K)
    report: Report = {
        "rows": rows,
        "rows_that_do_not_find_themselves": _lost(subject, vectors),
        "dead_rows_found": sum(int(seq) not in live for seqs in answers for seq in seqs),
        "recall": round(recall([subject.rows_of(seqs) for seqs in answers], truth), 4),
        "builds": subject.index.stats.builds,
        "segments": subject.index.stats.segments,
    }
    subject.close()
    return report


def _replace_all(subject: Subject, rows: int, dim: int) -> Vectors:
    """Replace every row in each turn; return the vectors of the last one."""
    random = np.random.default_rng(3)
    for turn in range(_TURNS):
        vectors = synthetic(rows, dim, _QUERIES, seed=11 + turn).vectors
        for some in np.array_split(random.permutation(rows), max(rows // _PAGE_ROWS, 1)):
            if turn == _DELETING_TURN:
                subject.delete(some.tolist())
            subject.write(some.tolist(), vectors[some])
    return vectors


def _lost(subject: Subject, vectors: Vectors) -> int:
    """Count the rows that a search for their own vector does not find."""
    lost = 0
    for start in range(0, len(vectors), _SEARCHED_AT_A_TIME):
        found = subject.search(vectors[start : start + _SEARCHED_AT_A_TIME], K)
        lost += sum(start + n not in subject.rows_of(seqs) for n, seqs in enumerate(found))
    return lost

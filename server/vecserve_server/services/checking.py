"""Whether a generation's files are what was written, and its rows are found by a search.

Owns the sample and the judgement. Must not know how files are laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vecserve_server.errors import CorruptData, DeadlineExceeded
from vecserve_server.index.vector_index import VectorIndex, not_given_up
from vecserve_server.storage.row_log import RowLog
from vecserve_server.storage.row_upkeep import MAX_PROBLEMS

SAMPLE_ROWS = 1000
TOGETHER = 16
NEAREST = 10
# Rows with the same vector are as good as each other.
TIE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a check of a whole collection found."""

    row_count: int
    problems: Sequence[str]
    """One sentence each."""


def check(
    log: RowLog, index: VectorIndex, *, given_up: Callable[[], bool] = not_given_up
) -> Checked:
    """Check every record and every file of the index, and search for the rows.

    The index searches for every row that it has sealed; a sample of all rows is looked for by
    their vectors on disk. Raises Overloaded, StorageError; DeadlineExceeded or Draining once it is
    `given_up`.
    """
    seqs, problems = log.verify(is_late=given_up)
    verified = index.verify(given_up)
    lost = {*verified.missing_seqs, *unfindable(log, index, seqs.tolist(), given_up=given_up)}
    problems += [f"{file}: is not what was written" for file in verified.damaged_files]
    problems += [f"row seq {seq}: a search for it finds others" for seq in sorted(lost)]
    return Checked(row_count=len(seqs), problems=problems[:MAX_PROBLEMS])


def unfindable(
    log: RowLog,
    index: VectorIndex,
    seqs: Sequence[int],
    *,
    given_up: Callable[[], bool] = not_given_up,
) -> list[int]:
    """Search for a sample of rows with their own vectors; return those that are not found."""
    step = max(1, len(seqs) // SAMPLE_ROWS)
    sample = list(seqs[::step])
    lost: list[int] = []
    for start in range(0, len(sample), TOGETHER):
        if given_up():
            raise DeadlineExceeded("the check was given up")
        lost += _lost(index, _vectors(log, sample[start : start + TOGETHER]))
    # What was removed while this ran is rightly not found.
    return sorted(log.by_seq(lost)) if lost else []


def _vectors(log: RowLog, seqs: Sequence[int]) -> dict[int, object]:
    """Read vectors; damaged rows are left out."""
    try:
        return {seq: row.vector for seq, row in log.by_seq(seqs, with_vectors=True).items()}
    except CorruptData:
        if len(seqs) == 1:
            return {}
        return {seq: vector for one in seqs for seq, vector in _vectors(log, [one]).items()}


def _lost(index: VectorIndex, vectors: dict[int, object]) -> list[int]:
    if not vectors:
        return []
    queries = np.stack([np.asarray(vector, np.float32) for vector in vectors.values()])
    found = index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), NEAREST)
    return [
        seq
        for seq, answer in zip(vectors, found, strict=True)
        if seq not in answer.seqs and not (len(answer.scores) and answer.scores[-1] > 1 - TIE)
    ]

"""Whether a generation's files are what was written, and its rows are found by a search.

Owns the sample and the judgement. Must not know how files are laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecserve_server.errors import CorruptData, DeadlineExceeded, StorageError
from vecserve_server.index.vectors.vector_index import VectorIndex, not_given_up
from vecserve_server.storage.rows.row_checks import MAX_PROBLEMS, Damaged
from vecserve_server.storage.rows.row_log import RowLog

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
    """One sentence each; what is wrong with rows themselves comes first."""
    has_damaged_rows: bool = False
    """Whether a row, or its text, is not what was written: no other file tells what it was."""
    has_lost_rows: bool = False
    """Whether rows are gone, or not all of them can be read."""
    repaired: Sequence[str] = ()
    """Problems that were found before, and are no more."""


def check(
    log: RowLog, index: VectorIndex, *, given_up: Callable[[], bool] = not_given_up
) -> Checked:
    """Check every record, what was made of them, and every file of the index; search for the rows.

    The index searches for every row that it has sealed; a sample of all rows is looked for by
    their vectors on disk. Raises Overloaded, StorageError; DeadlineExceeded or Draining once it is
    `given_up`.
    """
    found, seqs = _check_file(log, given_up)
    problems = [*found.problems, *_index_problems(log, index, seqs, given_up)]
    return replace(found, problems=problems[:MAX_PROBLEMS])


def check_rows(log: RowLog, *, given_up: Callable[[], bool] = not_given_up) -> Checked:
    """Check every record and what was made of them in the same file.

    Raises StorageError; DeadlineExceeded once it is `given_up`.
    """
    found, _ = _check_file(log, given_up)
    return found


def _check_file(log: RowLog, given_up: Callable[[], bool]) -> tuple[Checked, NDArray[np.int64]]:
    file = log.check(is_late=given_up)
    of_rows = [problem.text for problem in file.problems if problem.part is not Damaged.DERIVED]
    derived = [problem.text for problem in file.problems if problem.part is Damaged.DERIVED]
    checked = Checked(
        row_count=len(file.seqs),
        problems=[*of_rows, *derived][:MAX_PROBLEMS],
        has_damaged_rows=file.has(Damaged.RECORD),
        has_lost_rows=file.has(Damaged.LOST),
    )
    return checked, file.seqs


def _index_problems(
    log: RowLog, index: VectorIndex, seqs: NDArray[np.int64], given_up: Callable[[], bool]
) -> Iterator[str]:
    verified = index.verify(given_up)
    yield from (f"{file}: is not what was written" for file in verified.damaged_files)
    lost = set(verified.missing_seqs)
    try:
        lost |= set(unfindable(log, index, seqs.tolist(), given_up=given_up))
    except StorageError as error:
        yield f"rows: cannot be searched for: {error}"
    yield from (f"row seq {seq}: a search for it finds others" for seq in sorted(lost))


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

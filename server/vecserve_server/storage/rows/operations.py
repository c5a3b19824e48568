"""What one transaction writes and what it changed.

Owns the write operations and how several of them on one id resolve. Pure: no files, no threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow


@dataclass(frozen=True, slots=True)
class Upsert:
    """Write a row, in place of the one with the same id if there is one."""

    row: NewRow
    expected_seq: int | None = None
    """Write only if the row's seq is this one; 0: only if there is no such row."""

    @property
    def id(self) -> str:
        """The id that the operation touches."""
        return self.row.id


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the row with this id, if there is one."""

    id: str
    expected_seq: int | None = None
    """Remove only if the row's seq is this one."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """The operation was not done: the row's seq was not the expected one."""

    current_seq: int
    """The seq that the row has; 0: there is no such row."""


Operation: TypeAlias = Upsert | Delete
Outcome: TypeAlias = int | Conflict | None
"""The seq that an upsert wrote, or the seq that a delete removed, None if there was no such id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What a durable transaction did, for the caller and for the index."""

    seqs: tuple[Outcome, ...]
    """One for each operation."""
    added_seqs: NDArray[np.int64]
    """The rows that live because of this transaction, int64 [N], ascending."""
    added_vectors: NDArray[np.float16]
    """Their vectors as stored, float16 [N, D]."""
    removed_seqs: NDArray[np.int64]
    """The rows that lived before this transaction and no longer do, int64 [M], ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A batch of operations with its seqs assigned and its conflicts resolved."""

    seqs: tuple[Outcome, ...]
    added: Mapping[int, NewRow]
    """Ascending by seq; rows that a later operation of the batch undid are not in it."""
    removed: Sequence[int]
    last_seq: int


def plan(operations: Sequence[Operation], *, existing: Mapping[str, int], last_seq: int) -> Plan:
    """Apply the operations in order to `existing` (id to seq) without touching a row.

    One whose expected seq is not the current one changes nothing. Every other upsert takes a new
    seq above `last_seq`, also one that a later operation undoes, so that a seq names one write for
    ever.
    """
    current: dict[str, int] = dict(existing)
    added: dict[int, NewRow] = {}
    removed: list[int] = []
    seqs: list[Outcome] = []
    for operation in operations:
        if operation.expected_seq not in (None, current.get(operation.id, 0)):
            seqs.append(Conflict(current.get(operation.id, 0)))
            continue
        replaced = current.pop(operation.id, None)
        if replaced is not None and added.pop(replaced, None) is None:
            removed.append(replaced)
        if isinstance(operation, Upsert):
            last_seq += 1
            added[last_seq] = operation.row
            current[operation.id] = last_seq
            seqs.append(last_seq)
        else:
            seqs.append(replaced)
    return Plan(seqs=tuple(seqs), added=added, removed=sorted(removed), last_seq=last_seq)

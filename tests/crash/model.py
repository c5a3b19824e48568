"""What a collection must hold: a dictionary, and the states that calls leave possible.

Owns the rows' contents as functions of their numbers, and the writes that a scenario makes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vecserve_server.domain.rows import NewRow, Source
from vecserve_server.storage.rows.operations import Delete, Operation, Upsert

DIM = 16
WORDS = 7
_IDS = 40

State: TypeAlias = Mapping[str, int]
"""Which number's row each id has."""
Change: TypeAlias = tuple[str, int | None]
"""An id and the number of its new row; None: it is deleted."""
Transaction: TypeAlias = Sequence[Change]


def vector_of(number: int, version: str = "1") -> NDArray[np.float32]:
    """Make the vector of a row, float32 [DIM], of norm 1; version 2 of the model turns it round."""
    vector = np.random.default_rng(number).standard_normal(DIM)
    unit = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit if version == "1" else -unit


def word_of(number: int) -> str:
    """Tell the word that a row can be found by."""
    return f"word{number % WORDS}"


def row_of(row_id: str, number: int, version: str = "1") -> NewRow:
    """Make a row."""
    return NewRow(
        id=row_id,
        vector=vector_of(number, version),
        payload_json=f'{{"n":{number},"text":"{word_of(number)}"}}',
        source=Source(text=str(number)),
    )


def operations_of(transaction: Transaction, version: str = "1") -> list[Operation]:
    """Turn changes into operations."""
    return [
        Delete(row_id) if number is None else Upsert(row_of(row_id, number, version))
        for row_id, number in transaction
    ]


def transactions(count: int, *, seed: int, ids: int = _IDS) -> list[Transaction]:
    """Make transactions of one to eight changes, a third of them deletions."""
    chosen = random.Random(seed)
    numbers = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
    return [
        [
            (f"id{chosen.randrange(ids)}", None if chosen.random() < 0.3 else next(numbers))
            for _ in range(chosen.randint(1, 8))
        ]
        for _ in range(count)
    ]


def applied(state: State, transaction: Transaction) -> State:
    """Tell the state after a transaction."""
    after = dict(state)
    for row_id, number in transaction:
        if number is None:
            after.pop(row_id, None)
        else:
            after[row_id] = number
    return after


@dataclass(slots=True)
class Possible:
    """The states in which the rows may be: one, but for calls whose outcome is unknown."""

    states: list[State] = field(default_factory=lambda: [{}])

    def acknowledged(self, transaction: Transaction) -> None:
        """The transaction is durable."""
        self._become(applied(state, transaction) for state in self.states)

    def unknown(self, transaction: Transaction) -> None:
        """The transaction was done or was not: nobody was told, or it was said to have failed."""
        self._become(
            [*self.states, *(applied(state, transaction) for state in self.states)],
        )

    def is_now(self, state: State) -> None:
        """Somebody has looked."""
        assert state in self.states, f"{state} is none of {self.states}"
        self.states = [state]

    def _become(self, states: Iterable[State]) -> None:
        distinct: list[State] = []
        for state in states:
            if state not in distinct:
                distinct.append(state)
        self.states = distinct

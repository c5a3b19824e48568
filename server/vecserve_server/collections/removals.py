"""Which rows were removed while somebody copies a collection.

Owns the list between the writer thread, which adds, and the loop, which takes. Must not know why.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


class Removals:
    """The seqs that were removed since `watch`."""

    def __init__(self) -> None:
        self._noted: deque[NDArray[np.int64]] | None = None

    def watch(self) -> None:
        """Begin to note which rows are removed."""
        self._noted = deque()

    def note(self, seqs: NDArray[np.int64]) -> None:
        """Add seqs that were removed; on the writer thread."""
        noted = self._noted  # read once: the loop may set it to None meanwhile
        if noted is not None:
            noted.append(seqs)

    def take(self) -> list[int]:
        """Return the seqs that were removed since the last time."""
        taken: list[int] = []
        while self._noted:
            taken += self._noted.popleft().tolist()
        return taken

    def ignore(self) -> None:
        """Note nothing any longer."""
        self._noted = None

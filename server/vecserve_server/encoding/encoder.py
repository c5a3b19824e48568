"""The seam between the scheduler and whatever computes embeddings.

Owns the encoder interface. Must not know engines, queues or protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from vecserve_server.domain.vectors import Encodings, TokenIds

OnRun: TypeAlias = Callable[[int, int], None]
"""Told of every run how many tokens its sequences had and how many were computed, padding
included; called from the thread of the run."""


class Encoder(Protocol):
    """Turn token sequences into vectors. Synchronous; safe to call from several threads."""

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        """Encode the sequences, row i for sequence i.

        The caller keeps the total within the model's run budget; every sequence holds 1 to as
        many ids as the model takes.
        """
        ...

    def together(self, lengths: Sequence[int]) -> Sequence[int]:
        """Return with which of the others sequence 0 fills a run best; sequence 0 is among them."""
        ...

    def await_specialised(self, timeout_s: float) -> bool:
        """Return whether runs are as fast as they get, after at most that long."""
        ...

    def close(self) -> None:
        """Free the engine. No run may be in progress."""
        ...

"""The seam between the scheduler and whatever computes embeddings.

Owns the encoder interface. Must not know engines, queues or protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from vecserve_server.domain.vectors import Encodings, TokenIds

OnRun: TypeAlias = Callable[[int, int], None]
"""Called after each run, from its thread: tokens of the sequences, and tokens computed, which
include padding."""


class Encoder(Protocol):
    """Turn token sequences into vectors. Synchronous; safe to call from several threads."""

    def run(self, sequences: Sequence[TokenIds]) -> Encodings:
        """Encode the sequences, row i for sequence i.

        The caller keeps the total within the model's run budget; every sequence holds 1 to as
        many ids as the model takes.
        """
        ...

    def together(self, lengths: Sequence[int]) -> Sequence[int]:
        """Choose the sequences that share a run with sequence 0; return their indices, 0 included.

        `lengths` are those of the sequences that wait, in tokens.
        """
        ...

    def await_specialised(self, timeout_s: float) -> bool:
        """Wait until the engine has prepared all that makes runs faster; False at the timeout."""
        ...

    def close(self) -> None:
        """Free the engine. No run may be in progress."""
        ...

"""The seam before an encoder: from an input to what the encoder takes.

Owns the interface of a preprocessor, one for each modality that a model takes. Must not know
batches, nor any modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vecserve_server.domain.embedding import Truncate
from vecserve_server.domain.inputs import Embeddable, Modality
from vecserve_server.domain.vectors import TokenIds
from vecserve_server.errors import FieldPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How inputs are to be prepared."""

    prompt: str = ""
    """Stands before each text."""
    truncate: Truncate = "right"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One input as the encoder takes it."""

    sequence: TokenIds
    total_tokens: int
    """Before anything was cut off."""
    problem: str = ""
    """Why the input is refused, in words that follow the name of its field; empty: it is not."""


class Preprocessor(Protocol):
    """What prepares inputs of one modality, in threads of its own. Loop only."""

    @property
    def modality(self) -> Modality:
        """What it takes."""
        ...

    def check(self, field: FieldPath, item: Embeddable) -> None:
        """Refuse an input before anything is spent on it; raises InvalidArgument."""
        ...

    def cut(self, items: Sequence[Embeddable], preparation: Preparation) -> list[list[int]]:
        """Cut the inputs of a call into pieces of indices that are worth preparing together."""
        ...

    async def prepare(
        self,
        items: Sequence[Embeddable],
        preparation: Preparation,
        *,
        deadline_ns: int | None,
    ) -> Sequence[Prepared]:
        """Prepare the inputs of one piece, in their order.

        Raises DeadlineExceeded where its turn comes too late; a cancelled caller costs nothing.
        """
        ...

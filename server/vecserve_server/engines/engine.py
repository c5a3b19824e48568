"""The seam between the layouts of a batch and the runtime that computes it.

Owns the engine interface and the names of a model's tensors. Must not know texts or layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from vecserve_server.domain.shapes import Shape
from vecserve_server.domain.vectors import Encodings

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by input name."""

EMBEDDING, NORM = "embedding", "norm"
PACKED_INPUTS = frozenset({"input_ids", "position_ids", "segment_ids", "seqs"})
PADDED_INPUTS = frozenset({"input_ids", "attention_mask"})
TYPE_IDS = "token_type_ids"


class Engine(Protocol):
    """Run one model. Synchronous; safe to call from several threads."""

    @property
    def name(self) -> str:
        """What the runtime is called in a configuration."""
        ...

    @property
    def inputs(self) -> frozenset[str]:
        """Names of the model's inputs."""
        ...

    @property
    def dim(self) -> int:
        """Components of one vector."""
        ...

    def run(self, feeds: Feeds) -> Encodings:
        """Compute one batch; the arrays are the caller's own."""
        ...

    def warm_up(self, batches: Sequence[Feeds]) -> None:
        """Run the batches wherever later runs may happen, so that those find all prepared."""
        ...

    def specialise(self, shapes: Sequence[Shape]) -> None:
        """Begin to prepare for runs of these shapes, so that they take less time.

        Returns at once. Runs give the same vectors before and after. An engine that gains nothing
        by it does nothing. At most once.
        """
        ...

    def await_specialised(self, timeout_s: float) -> bool:
        """Return whether specialising is over, after at most that long."""
        ...

    def close(self) -> None:
        """Free the model. No run may be in progress."""
        ...

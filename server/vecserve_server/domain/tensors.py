"""What goes into a model and comes out of it, as tensors.

Owns the request and the reply. Pure data; must not know the wire or what computes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from vecserve_server.domain.timings import Timings
from vecserve_server.domain.urgency import Urgency

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays by name, the batch dimension included; BYTES are object arrays of bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRequest:
    """What a caller asks of a model: tensors that its configuration has, and fit it.

    Whoever asks has checked names, datatypes, shapes and batch sizes against the configuration.
    """

    inputs: Tensors
    outputs: Sequence[str] = ()
    """The outputs that are wanted, in that order, each once; none: all."""
    priority: int = 0
    """1 is the highest; 0: the model's default."""
    timeout_us: int = 0
    """How long the request may wait in the queue, where the model lets a request say so; 0: as the
    model is configured."""
    deadline_ns: int | None = None
    """Monotonic time at which the caller stops waiting."""

    def urgency(self, now_ns: int) -> Urgency:
        """Say how soon it wants to be served, if it comes to the queue now."""
        timeout_ns = self.timeout_us * 1000
        return Urgency(
            priority=self.priority,
            deadline_ns=self.deadline_ns,
            start_by_ns=now_ns + timeout_ns if timeout_ns else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReply:
    """What a model answers."""

    outputs: Tensors
    times: Timings
    cache_hit: bool = False


Infer: TypeAlias = Callable[[TensorRequest], Awaitable[TensorReply]]
"""Compute; raises the errors of `errors.py`, with the path `("inputs", name)` of what is wrong."""
